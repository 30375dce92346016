"""What is asked of every row of a sample: a value of a column, or a range."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import Scalar
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.reading import spelled
from fedward.synth.tables.rows import Bools


@dataclass(frozen=True)
class Condition:
    """One column's; a row that lacks the value does not meet it."""

    name: str
    equals: Scalar | None = None
    low: float = -np.inf
    high: float = np.inf

    def holds(self, frame: pd.DataFrame) -> Bools:
        """Return (N,) whether each row meets it."""
        cells = frame[self.name]
        met = (
            (cells == self.equals)
            if self.equals is not None
            else (cells >= self.low) & (cells <= self.high)
        )
        return met.to_numpy(dtype=bool, na_value=False)


Conditions = tuple[Condition, ...]


def conditions_of(columns: Columns, wanted: Mapping[str, Any]) -> Conditions:
    """Return the conditions in `wanted`.

    Args:
        columns: of the table.
        wanted: of a column's name, the value, or the (lowest, highest) pair, both included.

    Raises:
        ConfigError: a column or category is unknown, or no value within the bounds can meet it.
    """
    found = []
    for name, value in wanted.items():
        if name not in columns.names:
            known = "; ask for classes with class_counts" if name == columns.label else ""
            raise ConfigError(
                f"conditions: the table has no column {name!r}{did_you_mean(name, columns.names)}"
                f"{known}"
            )
        is_range = isinstance(value, tuple | list)
        found.append((_range if is_range else _value)(columns[name], value))
    return tuple(found)


def all_meet(conditions: Conditions, frame: pd.DataFrame) -> Bools:
    """Return (N,) whether each row meets every condition."""
    met = np.ones(len(frame), dtype=bool)
    for condition in conditions:
        met &= condition.holds(frame)
    return met


def _value(column: Column, value: Any) -> Condition:
    if not column.is_continuous:
        by_spelling = {spelled(one): one for one in column.categories}
        if spelled(value) not in by_spelling:
            raise ConfigError(
                f"conditions: {column.name} has no category {value!r}; "
                f"have {', '.join(map(str, column.categories))}"
            )
        return Condition(column.name, by_spelling[spelled(value)])
    if not _is_number(value) or not np.isfinite(value):
        raise ConfigError(f"conditions: {column.name}: given {value!r}, expected a number or range")
    _check_reach(column, float(value), float(value))
    return Condition(column.name, float(value))


def _range(column: Column, value: Any) -> Condition:
    if len(value) != 2 or not all(_is_number(one) for one in value) or not value[0] <= value[1]:
        raise ConfigError(f"conditions: {column.name}: given {value!r}, expected (lowest, highest)")
    low, high = float(value[0]), float(value[1])
    if column.is_continuous:
        _check_reach(column, low, high)
    elif any(isinstance(one, str) for one in column.categories):
        raise ConfigError(f"conditions: {column.name}: its categories have no order; give a value")
    elif not any(low <= float(one) <= high for one in column.categories):
        raise ConfigError(f"conditions: {column.name}: no category lies in {value!r}")
    return Condition(column.name, low=low, high=high)


def _check_reach(column: Column, low: float, high: float) -> None:
    lowest = -np.inf if column.low is None else column.low
    highest = np.inf if column.high is None else column.high
    if high < lowest or low > highest:
        raise ConfigError(
            f"conditions: {column.name}: the column lies between {lowest:g} and {highest:g}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
