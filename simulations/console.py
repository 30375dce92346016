"""What a person sees in the terminal while a simulation runs, and when it is done.

On a terminal: a progress bar and the last rounds, redrawn in place. Elsewhere (a log file, a
pipe): one line per round. With `--json`: nothing, so that standard output holds JSON alone.
Light to import: it is on screen before torch is loaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedward.common.wording import duration, number, size, standing_still, title
from fedward.simulations.console_results import printable, results

if TYPE_CHECKING:
    from fedward.server.rounds import RoundReport

LAST_ROUNDS = 8
LAST_REFUSALS = 3


class Display(Protocol):
    """Shows a run; `start` comes once per repetition, `finish` once, `close` always."""

    def start(self, described: Mapping[str, Any]) -> None:
        """Show what is about to run: name, sites, model, strategy, rounds."""

    def phase(self, text: str) -> None:
        """Show what happens outside the rounds, such as a baseline."""

    def round_done(self, report: RoundReport) -> None:
        """Show a finished round."""

    def finish(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Show the figures of a finished run and where its files are."""

    def close(self) -> None:
        """Give the terminal back, also after an error; may be called twice."""


def make_display(*, as_json: bool = False, console: Console | None = None) -> Display:
    """Return the display that fits where standard output goes."""
    if as_json:
        return NullDisplay()
    console = console or Console(highlight=False)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class NullDisplay:
    """Shows nothing."""

    def start(self, described: Mapping[str, Any]) -> None:
        """Show nothing."""

    def phase(self, text: str) -> None:
        """Show nothing."""

    def round_done(self, report: RoundReport) -> None:
        """Show nothing."""

    def finish(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class PlainDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def start(self, described: Mapping[str, Any]) -> None:
        """Print one line about the run."""
        self._line(_described(described))

    def phase(self, text: str) -> None:
        """Print the phase."""
        self._line(printable(text))

    def round_done(self, report: RoundReport) -> None:
        """Print one line, and one for each reply that was refused."""
        self._line(_round_line(report))
        for refused in _refusals(report):
            self._line(f"  {refused}")

    def finish(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Print the table of sites and the paths."""
        _print_results(self.console, summary, run_dir)

    def close(self) -> None:
        """Do nothing: every line is already out."""

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


class LiveDisplay:
    """A progress bar and the last rounds, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._head = Text()
        self._phase = Text()
        self._rounds: deque[RoundReport] = deque(maxlen=LAST_ROUNDS)
        self._refusals: deque[str] = deque(maxlen=LAST_REFUSALS)
        self._progress = _progress_bar(console)
        self._live = Live(console=console, get_renderable=self._frame, refresh_per_second=8)

    def start(self, described: Mapping[str, Any]) -> None:
        """Begin the rounds of a repetition; the one before stays as one line."""
        if self._rounds:
            self.console.print(Text(f"{self._head.plain}: {_round_line(self._rounds[-1])}"))
        self._head = Text(_described(described), style="bold")
        self._phase = Text("starting", style="dim")
        self._rounds.clear()
        self._progress = _progress_bar(self.console)
        self._progress.add_task("rounds", total=int(described.get("rounds", 0)) or None)
        self._live.start(refresh=True)

    def phase(self, text: str) -> None:
        """Show the phase beneath the bar."""
        self._phase = Text(printable(text), style="dim", overflow="ellipsis", no_wrap=True)
        self._live.refresh()

    def round_done(self, report: RoundReport) -> None:
        """Add the round to the table and move the bar."""
        self._rounds.append(report)
        self._refusals.extend(_refusals(report))
        self._phase = Text()
        for task in self._progress.task_ids:
            self._progress.update(task, completed=report.number, total=report.num_rounds)
        self._live.refresh()

    def finish(self, summary: Mapping[str, Any], run_dir: Path) -> None:
        """Leave the last frame on screen and print the table of sites and the paths."""
        self._phase = Text()
        self.close()
        _print_results(self.console, summary, run_dir)

    def close(self) -> None:
        """Stop redrawing and show the cursor again."""
        self._live.stop()

    def _frame(self) -> RenderableType:
        parts: list[RenderableType] = [self._head]
        if self._rounds:
            parts.append(_round_table(list(self._rounds)))
        parts += [
            Text(line, style="yellow", overflow="ellipsis", no_wrap=True) for line in self._refusals
        ]
        parts.append(self._progress)
        if self._phase.plain:
            parts.append(self._phase)
        return Group(*parts)


def _print_results(console: Console, summary: Mapping[str, Any], run_dir: Path) -> None:
    for part in results(summary, run_dir, width=console.width):
        console.print(part, soft_wrap=isinstance(part, Text) and bool(part.no_wrap))


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("rounds"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        expand=True,
        auto_refresh=False,
    )


def _described(described: Mapping[str, Any]) -> str:
    """Return 'heart-disease: 4 sites, mlp (1,234 parameters), fedavg, 20 rounds on ray'."""
    label = described.get("repetition")
    parts = [
        f"{described['num_sites']:,} sites" if "num_sites" in described else "",
        str(described.get("model", "")),
        str(described.get("strategy", "")),
        f"{described['rounds']} rounds" if "rounds" in described else "",
        f"on {described['engine']}" if "engine" in described else "",
    ]
    if "num_parameters" in described:
        parts[1] += f" ({described['num_parameters']:,} parameters)"
    name = f"{described.get('name', 'run')}{f' [{label}]' if label else ''}"
    return printable(f"{name}: {', '.join(filter(None, parts))}")


def _round_line(report: RoundReport) -> str:
    width = len(str(report.num_rounds))
    metric = _shown_metric(report)
    parts = [
        f"round {report.number:>{width}}/{report.num_rounds}",
        f"replies {report.num_accepted}/{report.num_sampled}",
        _loss_told(report),
        f"epsilon {number(report.epsilon)}" if report.epsilon is not None else "",
        f"test loss {number(report.eval_loss)}" if report.eval_loss is not None else "",
        f"{title(metric)} {number(report.metrics[metric])}" if metric else "",
        *standing_still(report.saturated, report.resting),
        duration(report.seconds),
        size(report.num_bytes),
    ]
    return "  ".join(filter(None, parts))


def _loss_told(report: RoundReport) -> str:
    told = _loss_cell(report)
    return told if report.train_loss is None else f"train loss {told}"


def _loss_cell(report: RoundReport) -> str:
    if report.train_loss is not None:
        return number(report.train_loss)
    return "skipped" if report.is_skipped else "private"


def _round_table(reports: list[RoundReport]) -> Table:
    metric = next((m for r in reversed(reports) if (m := _shown_metric(r))), None)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "replies", "train loss", "test loss"):
        table.add_column(name, justify="right", no_wrap=True)
    if metric:
        table.add_column(title(metric), justify="right", no_wrap=True)
    for name in ("time", "traffic"):
        table.add_column(name, justify="right", no_wrap=True)
    is_still = any(report.saturated or report.resting for report in reports)
    if is_still:
        table.add_column("saturated", no_wrap=True)
    for report in reports:
        few = report.num_accepted < report.num_sampled
        table.add_row(
            str(report.number),
            Text(f"{report.num_accepted}/{report.num_sampled}", style="yellow" if few else ""),
            _loss_cell(report),
            number(report.eval_loss),
            *([number(report.metrics.get(metric))] if metric else []),
            duration(report.seconds),
            size(report.num_bytes),
            *([_saturated_cell(report)] if is_still else []),
        )
    return table


def _saturated_cell(report: RoundReport) -> str:
    rests = f" ({len(report.resting):,} rest)" if report.resting else ""
    return f"{len(report.saturated):,}{rests}"


def _shown_metric(report: RoundReport) -> str | None:
    """Return the one figure that a narrow terminal has room for."""
    return "auroc" if "auroc" in report.metrics else next(iter(report.metrics), None)


def _refusals(report: RoundReport) -> list[str]:
    return [
        printable(f"round {report.number}, {refused.site}: {refused.status}: {refused.reason}")
        for refused in report.refused
    ]
