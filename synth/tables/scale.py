"""How one column of numbers becomes z and back: transform, standardisation, bounds, decimals.

Legend: N rows, K knots.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from fedward.common.errors import SiteDataError
from fedward.synth.tables.columns import Column
from fedward.synth.tables.rows import Floats

Transform = Literal["auto", "none", "log", "quantile"]
SKEWED = 2.0
"""Skewness above which `auto` takes the logarithm of a column that has a lower bound."""
MAX_DECIMALS = 9
"""As in a schema; numbers with more are not rounded."""
NEARLY_ALL = 0.95
"""Share of the values that must fit in a column's decimals."""
_LARGEST_LOG = 700.0
"""exp() of more is infinite."""


@dataclass(frozen=True, repr=False)
class Scale:
    """How one column of numbers becomes z and back."""

    kind: Literal["none", "log", "quantile"]
    origin: float
    """Of `log`: t = log(x - origin)."""
    knots_K: Floats
    """Of `quantile`: the sorted training values, so that the scale holds patients."""
    mean: float
    """Of t over the training rows."""
    deviation: float
    """Standard deviation of t over the training rows; 1 for a constant column."""
    median: float
    """Of the raw values; fills missing cells."""
    decimals: int | None
    """Digits after the point; None: not rounded."""

    def forward(self, x_N: Floats) -> Floats:
        """Return (N,) z of raw values; NaN stays NaN."""
        return (self._transformed(x_N) - self.mean) / self.deviation

    def backward(self, z_N: Floats) -> Floats:
        """Return (N,) raw values of z."""
        t_N = z_N * self.deviation + self.mean
        if self.kind == "log":
            raised: Floats = np.exp(np.minimum(t_N, _LARGEST_LOG)) + self.origin
            return raised
        if self.kind == "quantile":
            found: Floats = np.interp(ndtr(t_N), _levels(self.knots_K), self.knots_K)
            return found
        return t_N

    def place(self, x: float | None) -> float | None:
        """Return z of one raw value; None where there is none, or where it has no z."""
        if x is None:
            return None
        z = float(self.forward(np.array([x]))[0])
        return z if np.isfinite(z) else None

    def written_bounds(
        self, low: float | None, high: float | None
    ) -> tuple[float | None, float | None]:
        """Return the smallest and largest number within bounds that the decimals can write.

        Where none lies between them, the bounds themselves.
        """
        if self.decimals is None:
            return low, high
        unit = 10.0**self.decimals
        # The tolerance keeps 0.3, which is 2.9999999999999996 tenths, from becoming 0.2.
        inner_low = None if low is None else float(np.ceil(low * unit - 1e-6) / unit)
        inner_high = None if high is None else float(np.floor(high * unit + 1e-6) / unit)
        if inner_low is not None and inner_high is not None and inner_low > inner_high:
            return low, high
        return inner_low, inner_high

    def _transformed(self, x_N: Floats) -> Floats:
        if self.kind == "log":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.log(x_N - self.origin)
        if self.kind == "quantile":
            return normal_scores(x_N, self.knots_K)
        return x_N


def learn_scale(column: Column, raw_N: Floats, *, transform: Transform, filled: bool) -> Scale:
    """Return the scale of a column.

    Args:
        column: of numbers.
        raw_N: (N,) values of the training rows, NaN where missing.
        transform: `auto` takes the logarithm of skewed columns.
        filled: whether missing cells count as the median.

    Raises:
        SiteDataError: no row has a value.
    """
    known = raw_N[~np.isnan(raw_N)]
    if len(known) == 0:
        raise SiteDataError(f"column {column.name!r}: no row has a value; leave the column out")
    kind = _kind(known, column, transform)
    plain = Scale(
        kind,
        _origin(known, column) if kind == "log" else 0.0,
        np.sort(known) if kind == "quantile" else np.zeros(0),
        mean=0.0,
        deviation=1.0,
        median=float(np.median(known)),
        decimals=decimals_of(known) if column.decimals is None else column.decimals,
    )
    t_N = plain.forward(np.where(np.isnan(raw_N), plain.median, raw_N) if filled else known)
    # A constant column stays constant; its computed deviation may be the error of a sum.
    deviation = float(t_N.std()) if t_N.max() > t_N.min() else 1.0
    return replace(plain, mean=float(t_N.mean()), deviation=deviation)


def reflect(z_N: Floats, low: float | None, high: float | None) -> Floats:
    """Return `z_N` folded back into [low, high]: unlike clipping, no mass piles up at a bound."""
    outside_N = np.zeros(len(z_N), dtype=bool)
    if low is not None:
        outside_N |= z_N < low
    if high is not None:
        outside_N |= z_N > high
    if not outside_N.any():
        return z_N
    inside_N = z_N.copy()
    inside_N[outside_N] = _folded(z_N[outside_N], low, high)
    return inside_N


def _folded(z_N: Floats, low: float | None, high: float | None) -> Floats:
    if low is not None and high is not None:
        width = high - low
        if width <= 0:
            return np.full_like(z_N, low)
        place = np.mod(z_N - low, 2 * width)
        return low + np.minimum(place, 2 * width - place)
    if low is not None:
        return low + np.abs(z_N - low)
    assert high is not None
    return high - np.abs(z_N - high)


def decimals_of(known_N: Floats) -> int | None:
    """Return the fewest decimals that write nearly all values; None: more than `MAX_DECIMALS`.

    A few values with more digits, such as averages among whole numbers, decide nothing: how a
    column is written should not follow from single patients.

    Args:
        known_N: (N,) values, none missing.
    """
    for decimals in range(MAX_DECIMALS + 1):
        written = np.abs(known_N - np.round(known_N, decimals)) <= 1e-9 * np.abs(known_N)
        if written.mean() >= NEARLY_ALL:
            return decimals
    return None


def normal_scores(x_N: Floats, knots_K: Floats) -> Floats:
    """Return (N,) the normal scores of mid-ranks among sorted values; ties share one."""
    size = len(knots_K)
    below = np.searchsorted(knots_K, x_N, side="left")
    upto = np.searchsorted(knots_K, x_N, side="right")
    level = np.clip((below + upto) / (2 * size), 0.5 / size, 1 - 0.5 / size)
    return np.where(np.isnan(x_N), np.nan, ndtri(level))


def _kind(
    known: Floats, column: Column, transform: Transform
) -> Literal["none", "log", "quantile"]:
    if transform != "auto":
        return transform
    deviation = known.std()
    if known.min() == known.max() or column.low is None:
        return "none"
    skewness = float(np.mean(((known - known.mean()) / deviation) ** 3))
    return "log" if skewness > SKEWED else "none"


def _origin(known: Floats, column: Column) -> float:
    """Return a place below the lower bound: a twentieth of the median's distance from it."""
    low = float(known.min()) if column.low is None else column.low
    distance = float(np.median(known)) - low
    return low - (0.05 * distance if distance > 0 else 1.0)


def _levels(knots_K: Floats) -> Floats:
    return (np.arange(len(knots_K)) + 0.5) / len(knots_K)
