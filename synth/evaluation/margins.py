"""Column by column: how far synthetic values are from the patients' values.

A table that is balanced on purpose has other margins than the patients, if only because of its
classes. So the rows of another table are weighted until its classes have the shares of the
training rows; what remains is a difference within classes.

Legend: N rows, K values or bins.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Column, Columns, Kind

Floats = npt.NDArray[np.float64]
MIN_CELL = 10
"""A bar of the pictures stands for at least so many patients, or is left out."""
_ROWS_PER_BIN = 25
_BINS = (5, 24)
_SPAN = (0.01, 0.99)


@dataclass(frozen=True)
class Picture:
    """Shares of values, real and synthetic, in the same bins or categories."""

    edges: tuple[float, ...]
    """K + 1 (numbers); none for categories."""
    categories: tuple[str, ...]
    """K; none for numbers."""
    real: tuple[float, ...]
    """K shares; 0 where there are fewer than `MIN_CELL` patients."""
    synthetic: tuple[float, ...]


@dataclass(frozen=True)
class Margin:
    """One column."""

    name: str
    kind: Kind
    unit: str | None
    distance: float | None
    """Between training and synthetic values, 0 to 1: the Kolmogorov-Smirnov statistic of numbers,
    the total variation of categories. None where a table has no value."""
    baseline: float | None
    """The same between the training and the holdout rows: what chance does. None without them."""
    missing_real: float
    missing_synthetic: float
    picture: Picture | None
    """None where there is nothing to draw, or too few patients to draw them."""


def class_weights(columns: Columns, train: pd.DataFrame, table: pd.DataFrame) -> Floats:
    """Return (N,) weights of the rows of `table`, adding up to 1, that give it `train`'s classes.

    A class that `table` lacks is left out. Without a label all rows weigh the same.
    """
    if columns.label is None:
        return np.full(len(table), 1 / max(len(table), 1))
    codes = class_codes(columns, table)
    wanted = np.bincount(class_codes(columns, train), minlength=len(columns.classes))
    present = np.bincount(codes, minlength=len(columns.classes))
    weight = (wanted / np.maximum(present, 1))[codes]
    weights: Floats = weight / max(weight.sum(), np.finfo(float).tiny)
    return weights


def margins(
    columns: Columns, train: pd.DataFrame, synthetic: pd.DataFrame, holdout: pd.DataFrame | None
) -> tuple[Margin, ...]:
    """Return one margin per column, in their order."""
    weights = class_weights(columns, train, synthetic)
    own = None if holdout is None else class_weights(columns, train, holdout)
    found = []
    for column in columns:
        real, made = train[column.name], synthetic[column.name]
        baseline = None
        if holdout is not None and own is not None:
            baseline = distance(column, real, holdout[column.name], own)
        found.append(
            Margin(
                column.name,
                column.kind,
                column.unit,
                distance(column, real, made, weights),
                baseline,
                float(real.isna().mean()),
                float(weights @ made.isna().to_numpy(dtype=np.float64)),
                _picture(column, real, made, weights),
            )
        )
    return tuple(found)


def distance(column: Column, real: pd.Series, other: pd.Series, weights: Floats) -> float | None:
    """Return how far two samples of a column are apart, 0 to 1; missing cells are left out.

    Args:
        column: what is compared.
        real: (N,) values, all of one weight.
        other: (M,) values.
        weights: (M,) of `other`.
    """
    known = other.notna().to_numpy()
    real, other, weights = real.dropna(), other[known], weights[known]
    if len(real) == 0 or weights.sum() == 0:
        return None
    weights = weights / weights.sum()
    if column.is_continuous:
        return _kolmogorov_smirnov(
            real.to_numpy(dtype=np.float64), other.to_numpy(dtype=np.float64), weights
        )
    first = real.value_counts(normalize=True)
    second = pd.Series(weights).groupby(other.to_numpy()).sum()
    return float(first.sub(second, fill_value=0.0).abs().sum()) / 2


def _kolmogorov_smirnov(real: Floats, other: Floats, weights: Floats) -> float:
    """Return the largest difference of the two distribution functions."""
    values = np.unique(np.concatenate([real, other]))
    of_real = np.searchsorted(np.sort(real), values, side="right") / len(real)
    order = np.argsort(other, kind="stable")
    cumulated = np.concatenate([[0.0], np.cumsum(weights[order])])
    of_other = cumulated[np.searchsorted(other[order], values, side="right")]
    return float(np.abs(of_real - of_other).max())


def _picture(column: Column, real: pd.Series, made: pd.Series, weights: Floats) -> Picture | None:
    known = made.notna().to_numpy()
    real, made, weights = real.dropna(), made[known], weights[known]
    if len(real) < MIN_CELL or weights.sum() == 0:
        return None
    weights = weights / weights.sum()
    if column.is_continuous:
        return _histogram(real.to_numpy(dtype=np.float64), made.to_numpy(dtype=np.float64), weights)
    counts = np.array([(real == category).sum() for category in column.categories])
    shares = [float(weights[(made == c).to_numpy()].sum()) for c in column.categories]
    return Picture(
        (),
        tuple(str(category) for category in column.categories),
        tuple((np.where(counts < MIN_CELL, 0, counts) / len(real)).tolist()),
        tuple(shares),
    )


def _histogram(real: Floats, made: Floats, weights: Floats) -> Picture | None:
    """Return shares in equal bins, of which none shows a few patients or the last percent."""
    inner = np.array([np.quantile(values, _SPAN) for values in (real, made)])
    low, high = float(inner[:, 0].min()), float(inner[:, 1].max())
    if low == high:
        return None
    num_bins = int(np.clip(len(real) // _ROWS_PER_BIN, *_BINS))
    edges = np.linspace(low, high, num_bins + 1)
    counts, _ = np.histogram(real, edges)
    shares, _ = np.histogram(made, edges, weights=weights)
    return Picture(
        tuple(edges.tolist()),
        (),
        tuple((np.where(counts < MIN_CELL, 0, counts) / len(real)).tolist()),
        tuple(shares.tolist()),
    )
