"""Pair by pair: whether columns of the synthetic table go together as the patients' columns do.

| pair | measure | range |
|---|---|---|
| two columns of numbers | rank correlation (Spearman) | -1 to 1 |
| two columns of categories | Cramer's V | 0 to 1 |
| numbers and categories | correlation ratio of the ranks, eta | 0 to 1 |

Ranks, as laboratory values are skewed and one outlier would set the coefficient. The label, where
there is one, is a column of categories here. Rows are weighted as in `margins.py`.

Legend: N rows, F columns of numbers, D columns in all (the label last).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.synth.evaluation.margins import class_weights
from fedward.synth.tables.columns import Columns

Floats = npt.NDArray[np.float64]
MIN_PAIRS = 10
"""Rows that have both values; with fewer a pair has no association."""


@dataclass(frozen=True)
class Associations:
    """Every pair of columns; NaN where a pair has too few rows or a column does not vary."""

    names: tuple[str, ...]
    """D names, the label's last."""
    real: tuple[tuple[float, ...], ...]
    """(D, D), symmetric."""
    synthetic: tuple[tuple[float, ...], ...]
    mean_difference: float | None
    """Mean over pairs of |synthetic - real|."""
    baseline: float | None
    """The same between training and holdout rows: what chance does. None without them."""

    @property
    def difference_DD(self) -> Floats:
        """(D, D) synthetic minus real."""
        difference: Floats = np.array(self.synthetic) - np.array(self.real)
        return difference


def associations(
    columns: Columns, train: pd.DataFrame, synthetic: pd.DataFrame, holdout: pd.DataFrame | None
) -> Associations:
    """Return the associations of the training and of the synthetic rows."""
    real_DD, made_DD = (_matrix(columns, train, table) for table in (train, synthetic))
    baseline = None
    if holdout is not None:
        baseline = _mean_gap(real_DD, _matrix(columns, train, holdout))
    names = columns.names if columns.label is None else (*columns.names, columns.label)
    return Associations(
        names,
        tuple(map(tuple, real_DD.tolist())),
        tuple(map(tuple, made_DD.tolist())),
        _mean_gap(real_DD, made_DD),
        baseline,
    )


def _mean_gap(first_DD: Floats, second_DD: Floats) -> float | None:
    gaps = np.abs(first_DD - second_DD)[np.triu_indices(len(first_DD), k=1)]
    known = gaps[np.isfinite(gaps)]
    return float(known.mean()) if len(known) else None


def _matrix(columns: Columns, train: pd.DataFrame, table: pd.DataFrame) -> Floats:
    """Return (D, D) the associations of one table, in the order of the columns, label last."""
    weights = class_weights(columns, train, table)
    numbers = [column.name for column in columns.continuous]
    rank_NF = table[numbers].rank().to_numpy(dtype=np.float64)
    codes: dict[str, npt.NDArray[np.intp]] = {
        column.name: pd.Index(column.categories).get_indexer(pd.Index(table[column.name]))
        for column in columns.categorical
    }
    names = list(columns.names)
    if columns.label is not None:
        names.append(columns.label)
        codes[columns.label] = pd.Index(columns.classes).get_indexer(pd.Index(table[columns.label]))
    place = {name: index for index, name in enumerate(names)}
    found_DD = np.eye(len(names))
    at = [place[name] for name in numbers]
    found_DD[np.ix_(at, at)] = _correlations(rank_NF, weights)
    for number, (name, code) in enumerate(codes.items()):
        row = place[name]
        for other, other_code in list(codes.items())[:number]:
            found_DD[row, place[other]] = _cramers_v(code, other_code, weights)
            found_DD[place[other], row] = found_DD[row, place[other]]
        for index, column in enumerate(at):
            found_DD[row, column] = _correlation_ratio(rank_NF[:, index], code, weights)
            found_DD[column, row] = found_DD[row, column]
    return found_DD


def _correlations(values_NF: Floats, weights: Floats) -> Floats:
    """Return (F, F) weighted correlations, each pair on the rows that have both values."""
    known_NF = np.isfinite(values_NF).astype(np.float64)
    x_NF = np.nan_to_num(values_NF)
    # Centred first: sums of squares of large ranks would lose the difference to rounding.
    x_NF = (x_NF - x_NF.mean(axis=0)) * known_NF if len(x_NF) else x_NF
    w_NF = weights[:, None] * known_NF
    total_FF = w_NF.T @ known_NF
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_FF = (w_NF * x_NF).T @ known_NF / total_FF
        square_FF = (w_NF * x_NF**2).T @ known_NF / total_FF
        variance_FF = square_FF - mean_FF**2
        product_FF = (w_NF * x_NF).T @ x_NF / total_FF
        found_FF = (product_FF - mean_FF * mean_FF.T) / np.sqrt(variance_FF * variance_FF.T)
    varies = variance_FF > 1e-9 * (square_FF + 1)
    usable = varies & varies.T & (known_NF.T @ known_NF >= MIN_PAIRS)
    result: Floats = np.where(usable, np.clip(found_FF, -1, 1), np.nan)
    return result


def _cramers_v(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp], weights: Floats) -> float:
    """Return sqrt(chi^2 / (n min(r - 1, c - 1))) over the categories that occur."""
    known = (first >= 0) & (second >= 0)
    if np.count_nonzero(known) < MIN_PAIRS:
        return math.nan
    shares = pd.crosstab(first[known], second[known], weights[known], aggfunc="sum").fillna(0.0)
    table = shares.to_numpy() / shares.to_numpy().sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
    smallest = min(table.shape) - 1
    if smallest == 0:
        return math.nan
    chi_square = float(((table - expected) ** 2 / expected).sum())
    return min(1.0, math.sqrt(chi_square / smallest))


def _correlation_ratio(values: Floats, code: npt.NDArray[np.intp], weights: Floats) -> float:
    """Return eta: the root of the share of variance that lies between the categories."""
    known = np.isfinite(values) & (code >= 0)
    if np.count_nonzero(known) < MIN_PAIRS:
        return math.nan
    x, k, w = values[known], code[known], weights[known] / weights[known].sum()
    of_category = np.bincount(k, w)
    mean = float(w @ x)
    variance = float(w @ (x - mean) ** 2)
    if variance == 0 or np.count_nonzero(of_category) < 2:
        return math.nan
    means = np.bincount(k, w * x) / np.where(of_category == 0, 1, of_category)
    return math.sqrt(min(1.0, float(of_category @ (means - mean) ** 2) / variance))
