"""What all plots share: axes, lines, names that are no mathematics, and the file."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from fedward.common.page.palette import BLUE, MUTED, RULE, line_style
from fedward.common.wording import short
from fedward.server.report.charts_rounds import MAX_LINES
from fedward.server.report.series import Floats

DPI = 150
UNSAFE = re.compile(r"[^A-Za-z0-9]+")
# The marks and dashes of the page in matplotlib's alphabet, in the same order.
PNG_MARKS = ("o", "s", "D", "^", "P", "X", "*", "p")
PNG_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def panel(figure: Figure | SubFigure, rows: int, columns: int, place: int) -> Axes:
    """Return new axes in the house style."""
    return dress(figure.add_subplot(rows, columns, place))


def dress(axes: Axes) -> Axes:
    """Give axes the house style, and return them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.grid(color="#eef1f4")
    axes.set_axisbelow(True)
    return axes


def site_curves(axes: Axes, rounds: Sequence[int], sites: Sequence[str], values_RS: Floats) -> None:
    """Draw sites as lines, or as a band where they are many.

    Args:
        axes: with the rounds on its x axis.
        rounds: the R rounds.
        sites: the S names; the place in it decides a site's colour, mark and dash.
        values_RS: (R, S), NaN where there is no value.
    """
    drawn = np.flatnonzero(np.isfinite(values_RS).any(axis=0))
    x = np.array(rounds)
    if len(drawn) <= MAX_LINES:
        for index in drawn.tolist():
            _site_line(axes, x, values_RS[:, index], index=index, site=sites[index])
        return
    there = np.isfinite(values_RS).any(axis=1)
    low, high = np.nanquantile(values_RS[there], [0.05, 0.95], axis=1)
    axes.fill_between(x[there], low, high, color=BLUE, alpha=0.2, lw=0, label="90 % of sites")


def _site_line(
    axes: Axes,
    x: np.ndarray[tuple[int], np.dtype[np.int64]],
    y: np.ndarray,
    *,
    index: int,
    site: str,
) -> None:
    colour, _, dash = line_style(index)
    there = np.isfinite(y)
    axes.plot(
        x[there],
        y[there],
        color=colour,
        ls=PNG_DASHES[dash],
        lw=1.1,
        marker=PNG_MARKS[index % len(PNG_MARKS)],
        markersize=4,
        markevery=max(1, int(there.sum()) // 8),
        label=literal(site),
    )


def literal(name: str, limit: int = 24) -> str:
    """Return a site's name such that matplotlib reads no mathematics in it."""
    return short(name, limit).replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as a PNG and return its path."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": "fedward"})
    return path
