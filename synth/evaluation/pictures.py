"""Pictures of columns and pairs, as positions: margins, the map of associations, the mixing curve.

Positions are per cent of width and height, from the top left. Legend: D columns of the map.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedward.common.wording import short
from fedward.synth.evaluation.associations import Associations
from fedward.synth.evaluation.charts import STYLES, TESTS
from fedward.synth.evaluation.margins import Margin, Picture
from fedward.synth.evaluation.mixing import Mixing, MixingPoint
from fedward.synth.evaluation.reason import percent, two, with_interval

MAX_MARGINS = 6
MAX_PAIRS = 8
FULL_COLOUR = 0.5
"""Difference of two associations that has the strongest colour."""
_ORANGE, _BLUE = (213, 94, 0), (0, 114, 178)


@dataclass(frozen=True)
class Bars:
    """One category: the height of both bars."""

    name: str
    real: float
    synthetic: float


@dataclass(frozen=True)
class MarginPicture:
    """One column: outlines of both distributions, or bars."""

    title: str
    words: str
    real_path: str
    synthetic_path: str
    """Of numbers; in a square of 100."""
    low: str
    high: str
    bars: tuple[Bars, ...]
    """Of categories."""


@dataclass(frozen=True)
class Cell:
    """One pair of columns."""

    row: int
    column: int
    colour: str
    words: str


@dataclass(frozen=True)
class HeatMap:
    """The lower half of the matrix of differences."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]
    cell_px: int
    label_px: int


@dataclass(frozen=True)
class Pair:
    """A pair of columns whose association is lost or made up."""

    names: str
    real: str
    synthetic: str
    difference: str


@dataclass(frozen=True)
class CurvePoint:
    """One mixture."""

    x: float
    y: float
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Curve:
    """One table of patients."""

    name: str
    style: str
    points: tuple[CurvePoint, ...]

    @property
    def path(self) -> str:
        """The line, in a square of 100."""
        return " ".join(f"{point.x},{point.y}" for point in self.points)


@dataclass(frozen=True)
class CurveChart:
    """All curves over the share of real rows."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    description: str


def margin_pictures(margins: Sequence[Margin]) -> tuple[MarginPicture, ...]:
    """Return the columns that differ most, the most different first."""
    drawn = [one for one in margins if one.picture is not None and one.distance is not None]
    worst = sorted(drawn, key=lambda one: -(one.distance or 0.0))[:MAX_MARGINS]
    return tuple(_margin(one, one.picture) for one in worst if one.picture is not None)


def _margin(margin: Margin, picture: Picture) -> MarginPicture:
    assert margin.distance is not None
    unit = f" ({margin.unit})" if margin.unit else ""
    words = f"distance {two(margin.distance)}"
    if margin.baseline is not None:
        words += f", by chance {two(margin.baseline)}"
    if margin.missing_real or margin.missing_synthetic:
        words += (
            f"; missing {percent(margin.missing_real)}, synthetic "
            f"{percent(margin.missing_synthetic)}"
        )
    top = max(*picture.real, *picture.synthetic, 1e-9)
    edges = picture.edges or (0.0, 1.0)
    is_number = bool(picture.edges)
    return MarginPicture(
        f"{margin.name}{unit}",
        words,
        _outline(picture.real, top) if is_number else "",
        _outline(picture.synthetic, top) if is_number else "",
        _coarse(edges[0]),
        _coarse(edges[-1]),
        tuple(
            Bars(name, round(100 * real / top, 1), round(100 * made / top, 1))
            for name, real, made in zip(
                picture.categories, picture.real, picture.synthetic, strict=True
            )
        )
        if not is_number
        else (),
    )


def _coarse(value: float) -> str:
    """Return three digits that count, such as 2,670 or 0.0618."""
    return f"{float(f'{value:.3g}'):,g}".replace("-", "\N{MINUS SIGN}")


def _outline(shares: Sequence[float], top: float) -> str:
    """Return an SVG path of the steps, from the bottom left to the bottom right."""
    width = 100 / len(shares)
    steps = ["M0,100"]
    for index, share in enumerate(shares):
        y = round(100 - 96 * share / top, 2)
        steps.append(f"L{index * width:.2f},{y} L{(index + 1) * width:.2f},{y}")
    return " ".join([*steps, "L100,100"])


def heat_map(found: Associations) -> HeatMap:
    """Return the differences as colours: orange too strong or made up, blue lost."""
    num = len(found.names)
    cells = []
    for row in range(1, num):
        for column in range(row):
            real, made = found.real[row][column], found.synthetic[row][column]
            pair = f"{found.names[row]} and {found.names[column]}"
            if math.isnan(real) or math.isnan(made):
                cells.append(Cell(row, column, "#ffffff", f"{pair}: cannot be said"))
                continue
            words = f"{pair}: patients {two(real)}, synthetic {two(made)}"
            cells.append(Cell(row, column, _colour(made - real), words))
    longest = max(len(short(name, 18)) for name in found.names)
    return HeatMap(
        tuple(short(name, 18) for name in found.names),
        tuple(cells),
        max(13, min(30, 560 // num)),
        16 + 7 * longest,
    )


def _colour(difference: float) -> str:
    strength = min(1.0, abs(difference) / FULL_COLOUR)
    end = _ORANGE if difference > 0 else _BLUE
    return "#" + "".join(f"{round(255 + (part - 255) * strength):02x}" for part in end)


def worst_pairs(found: Associations) -> tuple[Pair, ...]:
    """Return the pairs that differ most."""
    pairs = [
        (found.synthetic[row][column] - found.real[row][column], row, column)
        for row in range(1, len(found.names))
        for column in range(row)
    ]
    known = sorted((p for p in pairs if not math.isnan(p[0])), key=lambda pair: -abs(pair[0]))
    return tuple(
        Pair(
            f"{found.names[column]} and {found.names[row]}",
            two(found.real[row][column]),
            two(found.synthetic[row][column]),
            two(difference),
        )
        for difference, row, column in known[:MAX_PAIRS]
    )


def mixing_chart(mixing: Mixing) -> CurveChart | None:
    """Return the curve of each table of patients; None where no mixture has a figure."""
    known = [point for point in mixing.points if point.auroc.value is not None]
    if not known:
        return None
    sides = [side for p in known for side in (p.auroc.low, p.auroc.high, p.auroc.value)]
    low = math.floor(min(side for side in sides if side is not None) * 20) / 20
    high = math.ceil(max(side for side in sides if side is not None) * 20) / 20
    step = 0.05 if high - low < 0.35 else 0.1

    def y(value: float) -> float:
        return round(100 * (high - value) / (high - low), 2)

    num_ticks = int((high - low) / step + 1e-9)
    shares = list(dict.fromkeys(point.share_real for point in mixing.points))
    curves = tuple(
        Curve(name, style, tuple(_point(p, y, shift) for p in known if p.test == test))
        for style, shift, (test, name) in zip(STYLES, (-0.6, 0.6), TESTS.items(), strict=False)
    )
    return CurveChart(
        tuple(curve for curve in curves if curve.points),
        tuple((_x(share), f"{share:.0%}".replace("%", " %")) for share in shares),
        tuple((y(low + step * i), two(low + step * i)) for i in range(num_ticks + 1)),
        "; ".join(f"{c.name}: {p.words}" for c in curves for p in c.points),
    )


def _x(share_real: float) -> float:
    """Return the position of a mixture: real rows only at the left, with room for its interval."""
    return round(3 + 94 * (1 - share_real), 2)


def _point(point: MixingPoint, y: Callable[[float], float], shift: float) -> CurvePoint:
    """Return one mixture; `shift` keeps the intervals of two curves apart."""
    metric = point.auroc
    assert metric.value is not None
    low = metric.value if metric.low is None else metric.low
    high = metric.value if metric.high is None else metric.high
    figure = with_interval(metric.value, metric.low, metric.high)
    words = f"{percent(point.share_real)} real rows {figure}"
    return CurvePoint(
        round(_x(point.share_real) + shift, 2), y(metric.value), y(low), y(high), words
    )
