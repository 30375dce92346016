"""Bounds of columns that no schema gives, found at a price: noisy counts between powers of two.

Each value falls into one of 123 public bins: -2^k-1 to -2^k, or 2^k to 2^k+1, and 0. The bounds are
the outer edges of the outermost bins whose noisy count is so high that noise alone would reach it,
in any bin of any column, with a probability of 5 % at most. What lies beyond them is moved to
the nearest bound. After `ApproxBounds` of Google's differential privacy library (Wilson et al.
2020, PoPETs 2020(2):230-250, section 5.1.1), with Gaussian noise.

Legend: N patients, F columns.
"""

import math
from statistics import NormalDist

import numpy as np

from fedward.common.errors import SiteDataError
from fedward.synth.tables.dp_queries import Answer, Patients, Query, one_hot, split_sums
from fedward.synth.tables.rows import Floats, Ints

LOW_POWER, HIGH_POWER = -20, 40
"""Smaller sizes count as 0, larger ones as the largest."""
FALSE_ALARM = 0.05
_POWERS = 2.0 ** np.arange(LOW_POWER, HIGH_POWER + 2)
_EDGES = np.concatenate([-_POWERS[::-1], _POWERS])
NUM_BINS = len(_EDGES) - 1


def bounds_query(num_columns: int) -> Query:
    """Return the query for how often values of each size occur.

    Its patients hold raw values in place of scaled ones.
    """
    sizes = [NUM_BINS] * num_columns

    def contribute(patients: Patients) -> Floats:
        rows = patients.rows
        places = [
            np.where(rows.absent_NM[:, place], -1, _bin(rows.values_NF[:, place]))
            for place in range(num_columns)
        ]
        return one_hot(places, sizes)

    return Query("bounds", sum(sizes), math.sqrt(num_columns), contribute)


def bounds_of(answer: Answer, names: tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    """Return the lower and the upper bound of each column.

    Raises:
        SiteDataError: all counts of a column may be noise.
    """
    num_cells = NUM_BINS * len(names)
    threshold = answer.deviation * NormalDist().inv_cdf((1 - FALSE_ALARM) ** (1 / num_cells))
    found = []
    for name, count in zip(names, split_sums(answer.sums_D, [NUM_BINS] * len(names)), strict=True):
        passed = np.flatnonzero(count > threshold)
        if len(passed) == 0:
            raise SiteDataError(
                f"column {name!r}: this share of the budget is too small to find its bounds among "
                "so few patients, and it is spent; give the bounds in a schema, or a larger "
                "bounds_share or epsilon"
            )
        found.append((float(_EDGES[passed[0]]), float(_EDGES[passed[-1] + 1])))
    return tuple(found)


def _bin(value_N: Floats) -> Ints:
    return np.searchsorted(_EDGES[1:-1], value_N, side="right").astype(np.int64)
