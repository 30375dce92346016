"""Rows in the space that synthesisers work in: standardised numbers, codes, and what is missing.

Shapes: N rows, F columns of numbers, C of categories, M = F + C with the numbers first.
Rows hold patients, or copies of them: they have no repr.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class Rows:
    """N rows.

    Args:
        values_NF: (N, F) float64, in the units of the encoder; 0 where missing.
        codes_NC: (N, C) int64, the place of each category in `Column.categories`; 0 where
            missing.
        absent_NM: (N, M) whether the cell is missing.
    """

    values_NF: Floats
    codes_NC: Ints
    absent_NM: Bools

    def __len__(self) -> int:
        """Return N."""
        return len(self.values_NF)

    def take(self, index: Ints | Bools | slice) -> "Rows":
        """Return some of the rows."""
        return Rows(self.values_NF[index], self.codes_NC[index], self.absent_NM[index])


@dataclass(frozen=True, repr=False)
class Candidates:
    """Rows that a synthesiser proposes, before any filter.

    Args:
        rows: (N) of them.
        parent_N: (N,) int64, the training row of the same class that each was made from, counted
            within its class; None where rows have no parent.
    """

    rows: Rows
    parent_N: Ints | None = None

    def take(self, index: Bools) -> "Candidates":
        """Return some of them."""
        parent_N = None if self.parent_N is None else self.parent_N[index]
        return Candidates(self.rows.take(index), parent_N)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return all rows of `parts` (at least one), in order."""
    return Rows(
        np.concatenate([part.values_NF for part in parts]),
        np.concatenate([part.codes_NC for part in parts]),
        np.concatenate([part.absent_NM for part in parts]),
    )


def no_rows(num_values: int, num_codes: int) -> Rows:
    """Return a table of no rows, with F = `num_values` and C = `num_codes`."""
    return Rows(
        np.zeros((0, num_values)),
        np.zeros((0, num_codes), dtype=np.int64),
        np.zeros((0, num_values + num_codes), dtype=bool),
    )
