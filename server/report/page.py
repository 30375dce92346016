"""Builds `report.html`: one file that opens offline, and lets no text of a site become code.

The template escapes every value; scripts run only when their hash is in the page's content
security policy, which also forbids any request.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from fedward.common import wording
from fedward.common.page.house import house_css
from fedward.common.task import Metric
from fedward.server.report.answers import Answers, answers
from fedward.server.report.arms import ARMS
from fedward.server.report.caveats import caveats
from fedward.server.report.charts import Chart
from fedward.server.report.charts_rounds import (
    learning_charts,
    participation_chart,
    time_chart,
    traffic_chart,
)
from fedward.server.report.charts_sites import arms_chart, calibration_chart
from fedward.server.report.monitoring import Monitoring, read_monitoring
from fedward.server.report.monitoring_section import Section, section
from fedward.server.report.pictures import Picture, read_pictures
from fedward.server.report.privacy_section import Section as PrivacySection
from fedward.server.report.privacy_section import privacy_section
from fedward.server.report.record import RunRecord, read_run
from fedward.server.report.series import Rounds, read_lines, tabulate
from fedward.server.report.subgroups import subgroup_table
from fedward.server.report.verdict import WORDS

SECTIONS = (
    "answer", "second", "learning", "folded", "calibration", "participation", "cost",
)  # fmt: skip
MAX_REASONS = 200
MAX_CONFIG_CHARS = 100_000
MAX_OPEN_PICTURES = 8


@dataclass(frozen=True)
class Undefined:
    """Figures without a value, and at how many sites for what reason."""

    metrics: str
    reason: str
    num_sites: int
    sites: list[str]


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into `run_dir` from what else is there, and return its path.

    Raises:
        FedwardError: `summary.json` is missing, or a file is not what it should be.
    """
    run = read_run(run_dir)
    lines = read_lines(run_dir)
    rounds = tabulate(lines, list(run.federated.sites))
    pictures = read_pictures(run_dir, run.federated.sites)
    path = run_dir / "report.html"
    page = render(
        run,
        rounds,
        pictures,
        monitoring=read_monitoring(run_dir, lines),
        private=privacy_section(run.facts.get("privacy"), lines),
    )
    path.write_text(page, encoding="utf-8")
    return path


def render(
    run: RunRecord,
    rounds: Rounds,
    pictures: Sequence[Picture] = (),
    *,
    monitoring: Monitoring | None = None,
    private: PrivacySection | None = None,
) -> str:
    """Return the whole page."""
    environment = Environment(
        loader=PackageLoader("fedward.server.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(wording=wording, words=WORDS, arms=ARMS)
    found = answers(run)
    charts = _charts(run, rounds, found)
    watched = None if monitoring is None else _watched(run, monitoring)
    scripts = [get_plotlyjs(), _asset("report.js")]
    drawn = chain(
        *charts.values(), watched.charts if watched else (), private.charts if private else ()
    )
    data = _json({chart.key: chart.spec for chart in drawn})
    return environment.get_template(
        "report.jinja"
    ).render(
        run=run,
        rounds=rounds,
        charts=charts,
        css=Markup(house_css() + _asset("report.css")),  # noqa: S704 - our own files
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - plotly.js and our own
        policy=_policy(scripts),
        data=Markup(data),  # noqa: S704 - JSON without '<'
        answers=found,
        has_local="local" in run.baselines,
        watched=watched,
        private=private,
        caveats=caveats(run, [c for one in found for c in one.sites], monitoring),
        pictures=pictures,
        fold_pictures=len(pictures) > MAX_OPEN_PICTURES,
        subgroups=subgroup_table(run),
        facts=_facts(run),
        totals=_totals(run, rounds),
        refused=run.refused[:MAX_REASONS],
        undefined=_undefined(run),
        config=run.config_text[:MAX_CONFIG_CHARS],
        config_is_cut=len(run.config_text) > MAX_CONFIG_CHARS,
    )


def _charts(run: RunRecord, rounds: Rounds, found: Sequence[Answers]) -> dict[str, list[Chart]]:
    """Return the charts of each section; a section without data has none."""
    charts: dict[str, list[Chart]] = {name: [] for name in SECTIONS}
    for place, one in enumerate(found):
        if any(c.federated.value is not None for c in one.sites):
            key = "arms" if place == 0 else "arms-second"
            charts["answer" if place == 0 else "second"] = [
                arms_chart(one.sites, one.metric, key=key)
            ]
    if rounds.numbers:
        charts["learning"], charts["folded"] = learning_charts(rounds, run.headline_metrics)
        charts["participation"] = [participation_chart(rounds)]
        charts["cost"] = [time_chart(rounds), traffic_chart(rounds)]
    curves = {name: s.calibration for name, s in run.federated.sites.items() if s.calibration}
    if curves:
        charts["calibration"] = [calibration_chart(curves)]
    return charts


def _watched(run: RunRecord, monitoring: Monitoring) -> Section:
    return section(
        monitoring,
        asked_for_cme=run.asked_for_cme,
        stopped_by=str(run.facts.get("stopped_by", "unknown")),
    )


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return the run's facts in the order in which they are shown."""
    facts, seconds = run.facts, run.facts.get("seconds", {})
    versions = ", ".join(f"{name} {found}" for name, found in facts.get("versions", {}).items())
    seeds = [str(r.seed) for r in run.repeats] or [str(facts.get("seed", "unknown"))]
    total, memory = seconds.get("total"), facts.get("peak_memory_bytes")
    found = {
        "Task": facts.get("task"),
        "Model": facts.get("model"),
        "Strategy": facts.get("strategy"),
        "Sites": f"{len(run.federated.sites):,}" if run.federated.sites else None,
        "Rounds": facts.get("rounds_run"),
        "Ended by": _ending(run),
        "Seeds" if len(seeds) > 1 else "Seed": ", ".join(dict.fromkeys(seeds)),
        "Repetitions": len(run.repeats) or None,
        "Engine": facts.get("engine"),
        "Asked for by": facts.get("operator"),
        "Request": str(facts.get("request", ""))[:16],
        "Created": wording.moment(facts["created"]) if facts.get("created") else None,
        "Duration": None if total is None else wording.duration(float(total)),
        "Peak memory": None if memory is None else wording.size(float(memory)),
        "Versions": versions,
    }
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def _ending(run: RunRecord) -> str:
    reason = str(run.facts.get("stopped_by", "unknown"))
    known = {
        "rounds": "all rounds done",
        "plateau": "early stop (plateau)",
        "saturation": "early stop (saturation)",
        "quorum": "quorum lost",
    }
    return known.get(reason, reason)


def _totals(run: RunRecord, rounds: Rounds) -> dict[str, str]:
    traffic = run.facts.get("bytes", {})
    sent = traffic.get("sent", float(rounds.bytes_sent.sum()))
    received = traffic.get("received", float(rounds.bytes_received.sum()))
    return {
        "sent": wording.size(float(sent or 0)),
        "received": wording.size(float(received or 0)),
        "accepted": _replies(int(rounds.counts("ok").sum()), "training "),
        "refused": _replies(len(run.refused)),
    }


def _replies(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{'reply was' if count == 1 else 'replies were'}"


def _undefined(run: RunRecord) -> list[Undefined]:
    """Return which figures are missing and why, sites with the same gap together."""
    by_gap: dict[tuple[str, str], list[str]] = {}
    for name, site in run.federated.sites.items():
        by_reason: dict[str, list[str]] = {}
        for metric, value in site.metrics.items():
            if value.value is None:
                by_reason.setdefault(_why(value), []).append(wording.title(metric))
        for reason, metrics in by_reason.items():
            by_gap.setdefault((", ".join(metrics), reason), []).append(name)
    return [Undefined(m, reason, len(s), s[:10]) for (m, reason), s in by_gap.items()]


def _why(metric: Metric) -> str:
    n = "" if metric.n is None else f" (n = {metric.n})"
    return f"{metric.reason or 'no reason recorded'}{n}"


def _json(specs: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element which holds it."""
    text = json.dumps(specs, cls=PlotlyJSONEncoder, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(scripts: Sequence[str]) -> str:
    """Return a content security policy: these scripts, inline styles, and nothing else."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files("fedward.server.report").joinpath(name).read_text(encoding="utf-8")
