"""What privacy costs, for people: the tables of a curve as Markdown, and its picture."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward.common.config.run import RunConfig
from fedward.common.page.palette import BLUE, INK, MUTED, RULE, VERMILLION
from fedward.common.task import Metric
from fedward.common.wording import title
from fedward.simulations.privacy_curve import Point, Trained, told

DPI = 150
Row = list[str]


def as_markdown(config: RunConfig, runs: Sequence[Trained], points: Sequence[Point]) -> str:
    """Return the tables of a curve; means over seeds with 95 % intervals."""
    assert config.privacy is not None
    metric, seeds = title(runs[0].metric), len({one.seed for one in runs})
    parts = [
        f"# {config.name}: what privacy costs\n",
        f"{metric}, mean over sites, {seeds} seeds; 95 % Student's t intervals, differences paired "
        f"by seed. privacy.mode {config.privacy.mode}, unit {config.privacy.unit}, delta "
        f"{config.privacy.delta:g}. {_on_plain(config)}\n",
        *table(_overall(points)),
        "",
        f"## {metric} at each site, federated / alone\n",
        *table(_by_site(points)),
        "",
    ]
    return "\n".join(parts)


def as_json(
    config: RunConfig, runs: Sequence[Trained], points: Sequence[Point]
) -> Mapping[str, Any]:
    """Return everything that was measured, seed by seed, and what it comes to."""
    return {
        "name": config.name,
        "mode": None if config.privacy is None else config.privacy.mode,
        "delta": None if config.privacy is None else config.privacy.delta,
        "points": [asdict(one) for one in points],
        "runs": [asdict(one) for one in runs],
    }


def picture(config: RunConfig, runs: Sequence[Trained], points: Sequence[Point]) -> Figure:
    """Return the curve: the figure against epsilon, federated and alone, with intervals."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    order = sorted(points, key=lambda one: (one.epsilon is None, one.epsilon or 0.0))
    place = np.arange(len(order), dtype=float)
    _line(axes, place - 0.05, [one.federated for one in order], "federated", BLUE, "o-")
    _line(axes, place + 0.05, [one.alone for one in order], "each site alone", VERMILLION, "s--")
    axes.set_xticks(place, ["no privacy" if p.epsilon is None else told(p.epsilon) for p in order])
    axes.set_xlabel("epsilon of each site, over all rounds", color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.grid(color=RULE, lw=0.6, axis="y")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    seeds = len({one.seed for one in runs})
    heading = f"{config.name}: {title(runs[0].metric)}, mean over sites, {seeds} seeds"
    axes.set_title(heading.replace("$", r"\$"), loc="left", fontsize=11, color=INK)
    return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file of `png` or `svg`."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, format=kind)
    return file.getvalue()


def shown(metric: Metric, *, signed: bool = False) -> str:
    """Return a figure with its interval to three decimals; a dash where there is none."""
    if metric.value is None:
        return "–"
    sign = "+" if signed else ""
    value = f"{metric.value:{sign}.3f}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} ({metric.low:{sign}.3f} to {metric.high:{sign}.3f})"


def table(rows: Iterator[Row]) -> list[str]:
    """Return the lines of a Markdown table; the first row is its head."""
    head, *body = rows
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]


def _on_plain(config: RunConfig) -> str:
    assert config.privacy is not None
    rules = "Without privacy (inf) the run keeps its other rules"
    if config.privacy.unit == "patient":
        return f"{rules}, but passes over patients in shuffled order; alone is as private."
    return f"{rules}; alone has no noise, as nothing leaves."


def _overall(points: Sequence[Point]) -> Iterator[Row]:
    yield ["epsilon", "federated", "each site alone", "federated minus alone", "minus no privacy"]
    for one in points:
        cost = "" if one.epsilon is None else shown(one.cost, signed=True)
        yield [
            told(one.epsilon),
            shown(one.federated),
            shown(one.alone),
            shown(one.gain, signed=True),
            cost,
        ]


def _by_site(points: Sequence[Point]) -> Iterator[Row]:
    sites = list(points[0].federated_at)
    yield ["epsilon", *sites]
    for one in points:
        cells = [f"{shown(one.federated_at[s])} / {shown(one.alone_at[s])}" for s in sites]
        yield [told(one.epsilon), *cells]


def _line(  # noqa: PLR0913 - where, what, and how it looks
    axes: Axes,
    place: np.ndarray,
    metrics: Sequence[Metric],
    label: str,
    colour: str,
    style: str,
) -> None:
    known = [(x, m) for x, m in zip(place, metrics, strict=True) if m.value is not None]
    values = np.array([m.value for _, m in known], dtype=float)
    low = np.array([m.value if m.low is None else m.low for _, m in known], dtype=float)
    high = np.array([m.value if m.high is None else m.high for _, m in known], dtype=float)
    axes.errorbar(
        [x for x, _ in known],
        values,
        yerr=np.abs([values - low, high - values]),
        fmt=style,
        color=colour,
        lw=1.6,
        markersize=6,
        capsize=3,
        label=label,
    )
