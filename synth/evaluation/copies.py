"""Synthetic rows that are a training patient's row, cell by cell.

Where all columns are coarse, different patients are alike by chance, and so are synthetic rows; how
often is seen in the holdout, of whose patients none was in training.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedward.common.intervals import wilson
from fedward.synth.tables.columns import Columns


@dataclass(frozen=True)
class Copies:
    """How many rows equal a training row in every column, the label among them."""

    num_copies: int
    num_rows: int
    """Synthetic rows."""
    num_alike: int | None
    """Holdout patients who equal a training patient; None without a holdout."""
    num_holdout: int

    @property
    def is_leak(self) -> bool:
        """Whether there are more copies than patients who are alike by chance.

        Where no two patients are alike, one copy is enough; else the intervals must part.
        """
        if not self.num_copies or not self.num_alike:
            return self.num_copies > 0
        chance = wilson(self.num_alike, self.num_holdout)[1]
        return wilson(self.num_copies, self.num_rows)[0] > chance


def copies(
    columns: Columns, train: pd.DataFrame, synthetic: pd.DataFrame, holdout: pd.DataFrame | None
) -> Copies:
    """Return how many rows of `synthetic`, and patients of `holdout`, are in `train`, too.

    Two cells are equal also where both are missing.
    """
    known = _keys(columns, train)
    alike = None if holdout is None else int(_keys(columns, holdout).isin(known).sum())
    return Copies(
        int(_keys(columns, synthetic).isin(known).sum()),
        len(synthetic),
        alike,
        0 if holdout is None else len(holdout),
    )


def _keys(columns: Columns, table: pd.DataFrame) -> pd.Series:
    """Return (N,) hashes of 64 bits; 1 and 1.0 are the same value."""
    cells = {}
    for column in columns:
        values = table[column.name]
        cells[column.name] = (
            values.to_numpy(dtype=np.float64)
            if column.is_continuous
            else pd.Index(column.categories).get_indexer(pd.Index(values))
        )
    if columns.label is not None:
        cells[columns.label] = pd.Index(columns.classes).get_indexer(pd.Index(table[columns.label]))
    return pd.util.hash_pandas_object(pd.DataFrame(cells), index=False)
