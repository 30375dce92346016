"""`model_card.md`: what the model is, on whom it was tested, and what it must not be used for.

Sections after Mitchell et al. 2019, Model cards for model reporting, FAT* 2019.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedward.common import wording
from fedward.common.task import Metric
from fedward.server.report.caveats import caveats, privacy
from fedward.server.report.monitoring import Monitoring, read_monitoring
from fedward.server.report.monitoring_section import epochs_words, saturation_words
from fedward.server.report.record import RunRecord, read_run
from fedward.server.report.subgroups import Cell, subgroup_table
from fedward.server.report.verdict import WORDS, compare_mean, compare_sites, headline

MAX_SITES = 100
UNSAFE = re.compile(r"([\\`*_\[\]|~#$!])")


def write_model_card(run_dir: Path) -> Path:
    """Write `model_card.md` into `run_dir` and return its path.

    Raises:
        FedwardError: `summary.json` is missing or is not JSON.
    """
    run = read_run(run_dir)
    monitoring = read_monitoring(run_dir)
    sections = [
        _head(run),
        _use(),
        _data(run),
        _figures(run),
        _worth(run),
        _calibration(run),
        _subgroups(run),
        _monitoring(monitoring),
        _limits(run, monitoring),
    ]
    path = run_dir / "model_card.md"
    path.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    return path


def _head(run: RunRecord) -> str:
    facts = run.facts
    rows = [
        ("Task", facts.get("task")),
        ("Model", facts.get("model")),
        ("Goes on from", facts.get("goes_on_from")),
        ("Strategy", facts.get("strategy")),
        ("Rounds", facts.get("rounds_run")),
        ("Ended by", facts.get("stopped_by")),
        ("Seed", ", ".join(str(r.seed) for r in run.repeats) or facts.get("seed")),
        ("Created", wording.moment(facts["created"]) if facts.get("created") else None),
        ("Versions", ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items())),
    ]
    lines = [f"- {name}: {text(str(value))}" for name, value in rows if value not in (None, "")]
    early = ["", "**The run did not finish; these are the figures of its last round.**"]
    return "\n".join(
        [f"# Model card: {text(run.name)}", "", *lines, *(early if run.ended_early else [])]
    )


def _use() -> str:
    return (
        "## Intended use\n\n"
        "Research on federated learning across hospitals: comparing ways of training, and "
        "deciding whether taking part is worth it.\n\n"
        "**Not a medical device.** Not for diagnosis, treatment or triage, and not for any "
        "decision about a patient. It has not been validated prospectively."
    )


def _data(run: RunRecord) -> str:
    sites = list(run.federated.sites.items())
    intro = (
        "Each site's patients are split into training and test patients; the unit of the split is "
        "the patient, so that no patient is in both parts. Preprocessing is fitted on training "
        "patients only. The columns, units and exclusions are in the schema that `config.yaml` "
        "names."
    )
    if not sites:
        return f"## Data and sites\n\n{intro}\n\nFigures of single sites did not leave the sites."
    rows = [[text(name), _count(s.num_train), _count(s.num_test)] for name, s in sites[:MAX_SITES]]
    return "\n\n".join(
        [
            "## Data and sites",
            intro,
            _table(["Site", "Training patients", "Test patients"], rows),
            *_more(len(sites)),
        ]
    )


def _figures(run: RunRecord) -> str:
    names = run.metric_names
    if not names:
        return "## Figures\n\nNo site reported figures on test patients."
    what = (
        f"over {len(run.repeats)} repetitions; n is their number"
        if run.repeats
        else "on each site's own test patients; n is their number"
    )
    sites = list(run.federated.sites.items())[:MAX_SITES]
    rows = [
        [text(name), *(_cell(site.metrics.get(metric)) for metric in names)] for name, site in sites
    ]
    if run.federated.overall:
        mean = [_cell(run.federated.overall.get(metric), with_n=False) for metric in names]
        rows.append(["**Mean over sites**", *mean])
    return "\n\n".join(
        [
            "## Figures",
            f"Value and 95 % interval, {what}.",
            _table(["Site", *(text(wording.title(name)) for name in names)], rows),
            *_more(len(run.federated.sites)),
        ]
    )


def _worth(run: RunRecord) -> str:
    if not run.headline_metrics or "local" not in run.baselines:
        return ""
    parts = [part for metric in run.headline_metrics for part in _compared(run, metric)]
    return "\n\n".join(["## Is it worth joining?", *parts])


def _compared(run: RunRecord, metric: str) -> list[str]:
    compared = compare_sites(run, metric)
    mean = compare_mean(run, metric, compared)
    rows = [
        [
            text(c.site),
            *(wording.figure(m) for m in (c.local, c.federated, c.pooled)),
            wording.figure(c.gain, signed=True),
            WORDS[c.answer],
        ]
        for c in [*compared[:MAX_SITES], mean]
    ]
    return [
        f"{headline(compared, mean)} ({text(wording.title(metric))}.)",
        _table(["Site", "Alone", "Federated", "Pooled", "Gain", "Answer"], rows),
    ]


def _calibration(run: RunRecord) -> str:
    curves = {n: s.calibration for n, s in run.federated.sites.items() if s.calibration}
    if not curves:
        return ""
    rows = [
        [
            text(name),
            ", ".join(
                f"{p:.2f}→{o:.2f} ({n})"
                for p, o, n in zip(curve.predicted, curve.observed, curve.n, strict=True)
            ),
        ]
        for name, curve in list(curves.items())[:MAX_SITES]
    ]
    explained = (
        "Mean predicted probability → observed share (patients), in up to ten bins of equal size."
    )
    return f"## Calibration\n\n{explained}\n\n{_table(['Site', 'Bins'], rows)}"


def _subgroups(run: RunRecord) -> str:
    found = subgroup_table(run)
    if found is None:
        return (
            "## Subgroups\n\nNone were reported: the schema names no subgroups, or the groups "
            "were too small. Differences between groups of patients are unknown."
        )
    explained = (
        "Mean over sites and 95 % interval, n summed over the sites that have the figure; then "
        "each site's own. Small groups have wide intervals, and of many intervals one in twenty "
        "misses its truth by chance."
    )
    if run.repeats:
        explained += " These are the figures of the first repetition."
    rows = [[text(row.name), *map(_group_cell, row.cells)] for row in found.groups]
    rows += [[f"Site {text(row.name)}", *map(_group_cell, row.cells)] for row in found.sites]
    header = ["Group", *(text(wording.title(name)) for name in found.metrics)]
    return "\n\n".join(["## Subgroups", explained, _table(header, rows), *_by_site(run)])


def _group_cell(cell: Cell) -> str:
    return f"{_cell(cell.metric)}{f' ({cell.gaps})' if cell.gaps else ''}"


def _by_site(run: RunRecord) -> list[str]:
    """Return the headline figure of each subgroup at each site."""
    metric = run.primary_metric
    if metric is None or len(run.federated.sites) < 2:
        return []
    rows = [
        [text(site), text(group), _cell(metrics.get(metric))]
        for site, result in list(run.federated.sites.items())[:MAX_SITES]
        for group, metrics in result.subgroups.items()
    ]
    return [_table(["Site", "Subgroup", text(wording.title(metric))], rows)] if rows else []


def _monitoring(monitoring: Monitoring | None) -> str:
    """Return what watching the run said at its end."""
    said = [] if monitoring is None else [saturation_words(monitoring), epochs_words(monitoring)]
    sentences = " ".join(sentence for sentence in said if sentence)
    return f"## Monitoring\n\n{sentences}" if sentences else ""


def _limits(run: RunRecord, monitoring: Monitoring | None) -> str:
    metric = run.primary_metric
    compared = compare_sites(run, metric) if metric else []
    known = [said for said in caveats(run, compared, monitoring) if said != privacy(run)]
    gaps = [
        f"{text(name)}: {wording.title(which)} is undefined ({text(value.reason or 'no reason')})."
        for name, site in list(run.federated.sites.items())[:MAX_SITES]
        for which, value in site.metrics.items()
        if value.value is None
    ]
    return f"## Privacy\n\n{privacy(run)}\n\n## Known gaps\n\n{_bullets([*known, *gaps[:50]])}" + (
        f"\n\n{len(gaps) - 50} more undefined figures are in summary.json." if gaps[50:] else ""
    )


def text(untrusted: str) -> str:
    """Return text from a configuration or a site such that Markdown shows it as it is."""
    one_line = " ".join(untrusted.split())
    return UNSAFE.sub(r"\\\1", html.escape(one_line, quote=False))


def _cell(metric: Metric | None, *, with_n: bool = True) -> str:
    if metric is None:
        return "–"
    n = f", n = {metric.n}" if with_n and metric.n is not None else ""
    if metric.value is None:
        return f"undefined: {text(metric.reason or 'no reason')}{n}"
    return f"{wording.figure(metric)}{n}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _more(total: int) -> Sequence[str]:
    return [f"The other {total - MAX_SITES:,} sites are in summary.json."] * (total > MAX_SITES)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
