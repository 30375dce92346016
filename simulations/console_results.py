"""The last thing in the terminal: figures per site, what joining brought, where the files are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedward.common.wording import MINUS, duration, interval, number, short, size, title

if TYPE_CHECKING:
    from fedward.common.task import Metric
    from fedward.server.report.record import RunRecord
    from fedward.server.report.verdict import Comparison

MAX_ROWS = 20
MAX_REASONS = 4
WIDE = 118
ANSWER_STYLES = {"better": "green", "worse": "red", "unclear": "", "unknown": "dim"}
ANSWER_MARKS = {"better": "▲ better", "worse": "▼ worse", "unclear": "≈ unclear", "unknown": "?"}
FILES = (
    ("report", "report.html"),
    ("model card", "model_card.md"),
    ("model", "model.safetensors"),
)


def results(summary: Mapping[str, Any], run_dir: Path, *, width: int) -> Iterator[RenderableType]:
    """Yield the table, the answer and the paths, for a terminal of `width` columns."""
    # Here and not above: the report's parts load torch, and the display is there before torch.
    from fedward.server.report.record import parse_run
    from fedward.server.report.verdict import compare_mean, compare_sites, headline

    run = parse_run(summary)
    yield Text()
    if run.primary_metric is None:
        yield Text("No site reported figures on test patients.")
    for place, metric in enumerate(run.headline_metrics):
        if place:
            yield Text()
        sites = compare_sites(run, metric)
        mean = compare_mean(run, metric, sites)
        over = f", {len(run.repeats)} repetitions" if run.repeats else ""
        what = f"{title(metric)} on each site's test patients, 95 % intervals{over}"
        yield Text(what, style="bold")
        yield _table(run, metric, [*sites[:MAX_ROWS], mean], width=width)
        if len(sites) > MAX_ROWS:
            yield Text(f"{len(sites) - MAX_ROWS:,} more sites are in the report.", style="dim")
        yield from _undefined(sites)
        if "local" in run.baselines:
            yield Text()
            yield Text(headline(sites, mean), style="bold")
    yield Text()
    yield from _cost(run)
    yield from _files(run_dir)


def printable(text: str) -> str:
    """Return text from elsewhere without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _table(run: RunRecord, metric: str, rows: list[Comparison], *, width: int) -> Table:
    arms = {"local": "alone", "federated": "federated", "pooled": "pooled"}
    shown = [name for name in arms if name == "federated" or name in run.baselines]
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    table.add_column("site", overflow="fold", max_width=40 if width >= WIDE else 16)
    table.add_column("n", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(arms[name], no_wrap=True)
    if "local" in run.baselines:
        table.add_column("gain", no_wrap=True)
        table.add_column("", no_wrap=True)
    for position, row in enumerate(rows):
        is_mean = position == len(rows) - 1
        cells = [
            Text("mean" if is_mean else short(printable(row.site), 40 if width >= WIDE else 30)),
            Text("" if row.num_test is None else f"{row.num_test:,}"),
            *(_cell(getattr(row, name), width) for name in shown),
        ]
        if "local" in run.baselines:
            style = ANSWER_STYLES[row.answer]
            cells += [
                _cell(row.gain, width, signed=True),
                Text(ANSWER_MARKS[row.answer], style=style),
            ]
        if is_mean:
            table.add_section()
        table.add_row(*cells, style="bold" if is_mean else "")
    return table


def _cell(metric: Metric, width: int, *, signed: bool = False) -> Text:
    """Return value and interval: side by side, or below each other on a narrow terminal."""
    if metric.value is None:
        return Text("–", style="dim")
    text = Text(number(metric.value, signed=signed))
    if metric.low is not None and metric.high is not None:
        dash = " to " if signed else "–"
        below = f"\n{metric.low:.2f}{dash}{metric.high:.2f}".replace("-", MINUS)
        text.append(interval(metric) if width >= WIDE else below, style="dim")
    return text


def _undefined(sites: list[Comparison]) -> Iterator[Text]:
    missing = [c for c in sites if c.federated.value is None]
    for c in missing[:MAX_REASONS]:
        n = "" if c.federated.n is None else f" (n = {c.federated.n})"
        yield Text(f"– {printable(c.site)}: {printable(c.federated.reason or '')}{n}", style="dim")
    if len(missing) > MAX_REASONS:
        yield Text(f"– and {len(missing) - MAX_REASONS:,} more without a figure", style="dim")


def _cost(run: RunRecord) -> Iterator[Text]:
    seconds, traffic = run.facts.get("seconds", {}), run.facts.get("bytes", {})
    parts = [f"{run.facts.get('rounds_run', 0)} rounds"]
    if seconds.get("total") is not None:
        parts[0] += f" in {duration(float(seconds['total']))}"
    if traffic:
        total = (traffic.get("sent") or 0) + (traffic.get("received") or 0)
        parts.append(f"{size(float(total))} moved")
    if run.refused:
        parts.append(
            f"{len(run.refused):,} {'reply' if len(run.refused) == 1 else 'replies'} refused"
        )
    if run.ended_early:
        parts.append(f"ended early: {printable(str(run.facts.get('stopped_by')))}")
    elif run.facts.get("stopped_by") in {"plateau", "saturation"}:
        parts.append(f"early stop ({run.facts['stopped_by']})")
    saved = run.facts.get("monitor", {}).get("client_epochs_saved")
    if saved:
        parts.append(f"{saved:,} client epochs saved")
    yield Text(", ".join(parts), style="dim")


def _files(run_dir: Path) -> Iterator[Text]:
    for what, name in FILES:
        path = run_dir / name
        if path.exists():
            # Never broken by a line end: a path is there to be copied.
            yield Text.assemble((f"{what:<11}", "dim"), str(_near(path)), no_wrap=True)


def _near(path: Path) -> Path:
    """Return the path from here where it is below, as that is what a person can type."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
