"""From columns to the dense features that models see, with imputation, flags and scaling.

A continuous field takes two columns: the standardised value, 0 (the mean) where it is missing,
and a missing flag. A categorical field takes one column per category and one for missing.
Means and deviations come from sums, so that sites can share them without sharing a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.table import Table
from fedward.common.task import Statistics

SUMS_PER_FIELD = 3
ROUNDING = 1e-12


@dataclass(frozen=True)
class FieldLayout:
    """Field i owns columns starts[i]:stops[i] of the features. Known without data."""

    names: tuple[str, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]


def layout_of(fields: Sequence[FieldSchema]) -> FieldLayout:
    """Return which encoded columns belong to which field."""
    stops = np.cumsum([field.width for field in fields]).tolist()
    return FieldLayout(tuple(field.name for field in fields), (0, *stops[:-1]), tuple(stops))


def statistics_size(fields: Sequence[FieldSchema]) -> int:
    """Return the length of `local_statistics`: the patients, and three sums per field."""
    return 1 + SUMS_PER_FIELD * sum(field.kind == "continuous" for field in fields)


def local_statistics(table: Table, fields: Sequence[FieldSchema]) -> Statistics:
    """Return the number of patients, then count, sum and sum of squares per field.

    A patient counts once: several rows share that, so that one patient's rows are never taken for
    several patients, by the gate or by the mean. Values are shifted by the middle of the field's
    range first, which every site knows: sums of squares of large values would lose the deviation
    to rounding. Two sites' sums add up.
    """
    patients, owner = np.unique(table.patient_id, return_inverse=True)
    sums = [float(len(patients))]
    for field in fields:
        if field.kind == "continuous":
            values = table.columns[field.name] - _shift(field)
            is_known = ~np.isnan(values)
            known, rows_of = values[is_known], np.bincount(owner[is_known])
            share = 1.0 / rows_of[owner[is_known]]
            count = float(np.count_nonzero(rows_of))
            sums += [count, float((share * known).sum()), float((share * known**2).sum())]
    return np.array(sums)


def encode(
    table: Table, fields: Sequence[FieldSchema], statistics: Statistics
) -> npt.NDArray[np.float32]:
    """Return features (N, F) of the table's rows.

    Args:
        table: the rows.
        fields: which of its columns, in order.
        statistics: from `local_statistics` of *training* rows, of this site or summed over all.
    """
    layout = layout_of(fields)
    x_NF = np.zeros((len(table), layout.stops[-1]), dtype=np.float32)
    moment = iter(zip(*moments(fields, statistics), strict=True))
    for field, start in zip(fields, layout.starts, strict=True):
        values = table.columns[field.name]
        missing = np.isnan(values)
        if field.kind == "continuous":
            mean, deviation = next(moment)
            x_NF[:, start] = np.where(missing, 0.0, (values - mean) / deviation)
            x_NF[:, start + 1] = missing
        else:
            code = np.where(missing, len(field.categories), values).astype(np.int64)
            x_NF[np.arange(len(table)), start + code] = 1.0
    return x_NF


def moments(
    fields: Sequence[FieldSchema], statistics: Statistics
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each continuous field.

    A field that nobody measured has the middle of its range as mean. One without spread has half
    its range as deviation, so that a later value that differs is a small number, whatever the
    unit; both are ours.
    """
    ranges = [field.range for field in fields if field.range and field.kind == "continuous"]
    low, high = np.array(ranges, dtype=np.float64).reshape(-1, 2).T
    shift, half = (low + high) / 2, (high - low) / 2
    count, total, squares = statistics[1:].reshape(-1, SUMS_PER_FIELD).T
    known = np.maximum(count, 1.0)
    mean = total / known
    mean_square = squares / known
    variance = mean_square - mean**2
    # The difference of two close numbers: below this share of them it is rounding, not spread.
    spread = variance > ROUNDING * mean_square
    return mean + shift, np.sqrt(np.where(spread, variance, half**2))


def _shift(field: FieldSchema) -> float:
    assert field.range is not None
    return (field.range[0] + field.range[1]) / 2
