"""What no patient can be: values outside their bounds, and rows that break a rule."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.synth.tables.columns import Column, Columns

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ConstraintCount:
    """One rule, such as `SBP >= MAP >= DBP`."""

    text: str
    num_synthetic: int
    """Synthetic rows that break it."""
    share_real: float
    """Share of the training rows that break it: clinical tables are not free of slips."""


@dataclass(frozen=True)
class RangeCount:
    """One column, of its synthetic values that are not missing."""

    name: str
    num_values: int
    num_impossible: int
    """Outside a public bound, no category of the column, or negative though no patient's is."""
    num_outside_training: int
    """Below the smallest or above the largest training value (numbers); may well be possible."""


@dataclass(frozen=True)
class Plausibility:
    """All columns and rules of one synthetic table."""

    num_rows: int
    num_rows_impossible: int
    """Rows with at least one impossible value."""
    num_rows_violating: int
    """Rows that break at least one rule."""
    ranges: tuple[RangeCount, ...]
    constraints: tuple[ConstraintCount, ...]

    @property
    def share_outside_training(self) -> float:
        """Share of the values that are outside the training range."""
        values = sum(one.num_values for one in self.ranges)
        return sum(one.num_outside_training for one in self.ranges) / max(values, 1)


def plausibility(columns: Columns, train: pd.DataFrame, synthetic: pd.DataFrame) -> Plausibility:
    """Return the counts of impossible values and broken rules in `synthetic`.

    A range that was read off the training rows is no proof that a value is impossible; a sign is
    taken for one (ours): a table without a schema would otherwise pass with negative creatinine.
    """
    any_impossible = np.zeros(len(synthetic), dtype=bool)
    any_broken = np.zeros(len(synthetic), dtype=bool)
    ranges, constraints = [], []
    for column in columns:
        values = synthetic[column.name]
        impossible = _impossible(column, train[column.name], values)
        any_impossible |= impossible
        outside = _outside_training(column, train[column.name], values)
        counts = [int(mask.sum()) for mask in (values.notna().to_numpy(), impossible, outside)]
        ranges.append(RangeCount(column.name, *counts))
    for rule in columns.constraints:
        broken = ~rule.holds(synthetic)
        any_broken |= broken
        share = float((~rule.holds(train)).mean())
        constraints.append(ConstraintCount(rule.text, int(broken.sum()), share))
    return Plausibility(
        len(synthetic),
        int(any_impossible.sum()),
        int(any_broken.sum()),
        tuple(ranges),
        tuple(constraints),
    )


def _impossible(column: Column, real: pd.Series, values: pd.Series) -> Mask:
    if not column.is_continuous:
        return (values.notna() & ~values.isin(column.categories)).to_numpy(dtype=bool)
    x = values.to_numpy(dtype=np.float64)
    beyond = np.isinf(x)
    if column.bounds == "public":
        beyond |= x < (-np.inf if column.low is None else column.low)
        beyond |= x > (np.inf if column.high is None else column.high)
    known = real.dropna().to_numpy(dtype=np.float64)
    if len(known) and known.min() >= 0 and (column.low is None or column.bounds == "observed"):
        beyond |= x < 0
    return np.asarray(beyond, dtype=bool)


def _outside_training(column: Column, real: pd.Series, values: pd.Series) -> Mask:
    known = real.dropna()
    if not column.is_continuous or len(known) == 0:
        return np.zeros(len(values), dtype=bool)
    x, of_train = values.to_numpy(dtype=np.float64), known.to_numpy(dtype=np.float64)
    return np.asarray((x < of_train.min()) | (x > of_train.max()), dtype=bool)
