"""The curves that rules look at, and where each rule stopped each seed, as one PNG."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedward.common.page.palette import BLUE, GREEN, INK, MUTED, RULE, VERMILLION
from fedward.common.wording import title
from fedward.simulations.stopping.comparison import ORACLE, Comparison
from fedward.simulations.stopping.recording import VALIDATION_LOSS, RecordedRound, Recording
from fedward.simulations.stopping.rules import FULL, PLATEAU

DPI = 130
Value = Callable[[RecordedRound], float | None]


def picture(name: str, comparison: Comparison) -> bytes:
    """Return a PNG: four curves with a line per seed, and below them the stops by rule."""
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 1.5))
    metric = comparison.recordings[0].primary_metric
    panels: Sequence[tuple[str, Value]] = (
        (title(VALIDATION_LOSS), lambda this: this.figures.get(VALIDATION_LOSS)),
        (f"{title(metric)}, mean of sites", lambda this: this.figures.get(metric)),
        ("CME: log_mag, mean of sites and layers", lambda this: _mean_of(this, "log_mag")),
        ("CME: rho, mean of sites and layers", lambda this: _mean_of(this, "rho")),
    )
    for place, (heading, value) in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(place, 2)])
        _plain(axes, heading)
        _curves(axes, comparison.recordings, value)
    _stops(figure.add_subplot(grid[2, :]), comparison)
    seeds = len(comparison.recordings)
    figure.suptitle(
        f"{name}: stop rules, {seeds} seeds", x=0.01, ha="left", fontsize=12, fontweight="bold"
    )
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format="png")
    return file.getvalue()


def _curves(axes: Axes, recordings: Sequence[Recording], value: Value) -> None:
    for recording in recordings:
        known = [(this.number, value(this)) for this in recording.rounds]
        points = [(number, found) for number, found in known if found is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=BLUE, lw=1.1, alpha=0.6)


def _stops(axes: Axes, comparison: Comparison) -> None:
    rows = list(comparison.rows.values())
    _plain(axes, "Rounds run until each rule stopped, a dot per seed; bar: mean")
    for place, row in enumerate(rows):
        x = np.array([stop.stopped_at for stop in row.stops], dtype=float)
        lost = np.array([stop.lost_points for stop in row.stops])
        colour = {PLATEAU.name: VERMILLION, ORACLE: GREEN, FULL.name: MUTED}.get(row.name, BLUE)
        shift = np.linspace(-0.2, 0.2, len(x)) if len(x) > 1 else np.zeros(1)
        axes.plot(x, place + shift, "o", color=colour, ms=4.5, alpha=0.75)
        axes.plot([x.mean()] * 2, [place - 0.32, place + 0.32], color=colour, lw=2.5)
        axes.annotate(
            f"{lost.mean():+.2f} points lost",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED,
        )
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(comparison.budgets) * 1.03)


def _plain(axes: Axes, heading: str) -> None:
    axes.set_title(heading, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("round", color=MUTED, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _mean_of(this: RecordedRound, name: str) -> float | None:
    found = [
        figures[name]
        for layers in this.cme.values()
        for figures in layers.values()
        if name in figures
    ]
    return sum(found) / len(found) if found else None
