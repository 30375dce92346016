"""Distances and densities among rows, as attackers and the resemblance figures use them.

Blocks of float32 and brute force: trees are useless beyond a dozen columns.

Shapes: Q queries, N rows, D coordinates (one per number and per category).
"""

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

from fedward.synth.evaluation.encoding import numeric_form
from fedward.synth.tables.columns import Column, Columns

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

BLOCK_CELLS = 4_000_000
"""Distances held at once: 16 MB."""
SPACING_ROWS = 1_000
GAP_WEIGHT = 5.0
"""Distance of a value that is missing in one of two rows only, in standard deviations. Far beyond
that of neighbours, so that rows with the same gaps are compared first (ours, measured: with 2
instead, a copied pattern of gaps is recognised less often)."""


class RowSpace:
    """Rows as points: numbers imputed and standardised, categories as coordinates.

    Scales come from rows that the attacker has, never from those that are attacked.
    """

    def __init__(
        self, columns: Columns, known: pd.DataFrame, *, gaps_of: pd.DataFrame | None = None
    ) -> None:
        """Fit the scales on `known`.

        Where `gaps_of` lacks values in a column, missing values there are a further coordinate.
        """
        self._form: ColumnTransformer = numeric_form(columns).fit(known)
        absent = [] if gaps_of is None else columns.names
        self._gaps = [name for name in absent if gaps_of is not None and gaps_of[name].isna().any()]
        self._owners = (
            [column.name for column in columns.continuous]
            + [column.name for column in columns.categorical for _ in column.categories]
            + self._gaps
        )

    def __call__(self, frame: pd.DataFrame) -> Rows:
        """Return (N, D) points of the rows of `frame`."""
        if not len(frame):
            return np.zeros((0, len(self._owners)), dtype=np.float32)
        points_ND = self._form.transform(frame)
        if self._gaps:
            missing = frame[self._gaps].isna().to_numpy(dtype=np.float64)
            points_ND = np.hstack([points_ND, GAP_WEIGHT * missing])
        rows_ND: Rows = points_ND.astype(np.float32)
        return rows_ND

    def coordinates(self, names: Collection[str]) -> npt.NDArray[np.int64]:
        """Return which coordinates the columns `names` have."""
        return np.flatnonzero([owner in names for owner in self._owners])


def codes(column: Column, frame: pd.DataFrame) -> Floats:
    """Return (N,) the column's numbers, or its categories' positions; NaN where missing."""
    values = frame[column.name]
    if not column.is_continuous:
        values = values.map({value: float(i) for i, value in enumerate(column.categories)})
    return values.to_numpy(dtype=np.float64)


def nearest(query_QD: Rows, rows_ND: Rows, k: int = 1) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return (Q, k) distances to the nearest rows, rising, and the rows' positions."""
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows_ND).kneighbors(query_QD)
    return found[0].astype(np.float64), found[1].astype(np.int64)


def log_density(query_QD: Rows, rows_ND: Rows, bandwidth: float) -> Floats:
    """Return (Q,) log of a Gaussian kernel density, up to a constant that all queries share.

    Args:
        query_QD: where.
        rows_ND: of what; at least one.
        bandwidth: standard deviation of the kernel, > 0, in the units of the points.
    """
    block = max(1, BLOCK_CELLS // len(rows_ND))
    found = []
    for start in range(0, len(query_QD), block):
        exponent = euclidean_distances(query_QD[start : start + block], rows_ND, squared=True)
        exponent *= -0.5 / bandwidth**2
        # By hand: scipy's logsumexp makes three copies of a block.
        top = exponent.max(axis=1, keepdims=True)
        np.exp(np.subtract(exponent, top, out=exponent), out=exponent)
        found.append(top[:, 0] + np.log(exponent.sum(axis=1)))
    return np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def spacing(rows_ND: Rows, num_columns: int) -> float:
    """Return the median distance of a row to its nearest other one, per root of the columns.

    A Gaussian step of this standard deviation in each column leads about as far as the next
    patient, whatever the number of columns: the natural unit of a bandwidth. Equal rows do not
    count; where all are equal it is 1.
    """
    some_MD = rows_ND[:SPACING_ROWS]
    if len(some_MD) < 2:
        return 1.0
    distances_MM = euclidean_distances(some_MD)
    # Rounding in float32 leaves equal rows a little apart.
    distances_MM[distances_MM < 1e-3] = np.inf
    closest = distances_MM.min(axis=1)
    closest = closest[np.isfinite(closest)]
    return float(np.median(closest)) / math.sqrt(num_columns) if len(closest) else 1.0
