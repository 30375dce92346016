"""What a synthesiser refuses to learn, each with its own message, and the columns of a table.

Messages name column, count and rule; they never show a value of a patient.
"""

import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import DropRule, TableSchema
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.detect import detect
from fedward.synth.tables.reading import codes_among, numbers_of, table_of

LABEL = "label"
"""What a label is called that came without a name."""
MANY_NUMBERS = 5
"""Columns of numbers from which on two equal rows are taken for one patient given twice."""


class DuplicateRowsWarning(UserWarning):
    """Rows are equal in every column, so that one patient may count as several."""


def columns_for(
    given: Columns | TableSchema | None,
    X: pd.DataFrame,  # noqa: N803 - scikit-learn's name
    y: Any = None,
) -> tuple[Columns, pd.DataFrame]:
    """Return the columns of a table, and the table in the form that they describe, label last.

    Args:
        given: its columns; a schema, whose rows are dropped and labels cut as it says; or None to
            read them off the rows (`detect.py`; identifiers are refused).
        X: (N) rows; columns that are not described are left out.
        y: (N,) labels that are not in `X`, as an array or series. The column is called as `given`
            says, else as the series, else `label`.

    Raises:
        SiteDataError: a column is missing or given twice, or a cell does not fit it.
        ConfigError: `X` is no data frame, or `y` and the description do not go together.
    """
    columns = Columns.of_schema(given) if isinstance(given, TableSchema) else given
    frame, label = _with_label(columns, X, y)
    if isinstance(given, TableSchema):
        for rule in given.drop:
            frame = frame[~_is_dropped(rule, frame)]
    if columns is None:
        columns = detect(frame, label=label)
    _check_names(columns, frame)
    return replace(columns, positive_above=None), table_of(columns, frame)


def widened(columns: Columns, table: pd.DataFrame) -> Columns:
    """Return the columns with bounds that were read off other rows widened to those of `table`.

    Public bounds stay: what lies outside them is an error (`check_table`).
    """
    for column in columns.continuous:
        values = table[column.name].to_numpy(dtype=np.float64)
        if column.bounds == "observed" and not np.isnan(values).all():
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            low = low if column.low is None else min(low, column.low)
            high = high if column.high is None else max(high, column.high)
            columns = columns.with_column(replace(column, low=low, high=high))
    return columns


def check_table(columns: Columns, table: pd.DataFrame, *, min_class_size: int) -> None:
    """Refuse rows that nothing should be learned from.

    Equal rows are allowed: with few columns, patients may well agree. In a table of many numbers
    they are warned of, since the patient is the unit of every privacy figure.

    Args:
        columns: of the table.
        table: in their form (`columns_for`).
        min_class_size: fewest rows of each class; of all rows where there is no label.

    Raises:
        NoPatientsError: there is no row.
        SiteDataError: a class is too small, there is only one, a column has no value, or values
            lie outside its bounds.
    """
    if len(table) == 0:
        raise NoPatientsError("the table has no rows; nothing can be learned from it")
    for column in columns:
        if table[column.name].isna().all():
            raise SiteDataError(f"column {column.name!r}: no row has a value; leave the column out")
        if column.is_continuous:
            check_bounds(column, table)
    _check_classes(columns, table, min_class_size)
    if len(columns.continuous) >= MANY_NUMBERS and (twice := int(table.duplicated().sum())):
        warnings.warn(
            f"{twice} of {len(table)} rows repeat another row in every column; where they are the "
            "same patient, keep one, since privacy is counted per row",
            DuplicateRowsWarning,
            stacklevel=3,
        )


def class_codes(columns: Columns, table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return (N,) the place of each row's label in `columns.classes`; 0 without a label.

    Raises:
        SiteDataError: a label is missing, or is none of the classes.
    """
    if columns.label is None:
        return np.zeros(len(table), dtype=np.int64)
    code = codes_among(columns.classes, table[columns.label], columns.label)
    if (code < 0).any():
        raise SiteDataError(f"column {columns.label!r}: {int((code < 0).sum())} labels are missing")
    return code


def _with_label(
    columns: Columns | None,
    X: pd.DataFrame,  # noqa: N803
    y: Any,
) -> tuple[pd.DataFrame, str | None]:
    """Return the rows with `y` as one of their columns, and that column's name."""
    if not isinstance(X, pd.DataFrame):
        raise ConfigError(f"X: given {type(X).__name__}, expected a pandas.DataFrame")
    times = Counter(X.columns)
    if twice := [str(name) for name, count in times.items() if count > 1]:
        raise SiteDataError(f"columns given twice: {', '.join(twice)}; rename or drop one")
    if unnamed := sum(not isinstance(name, str) for name in times):
        raise ConfigError(f"X: {unnamed} column names are not text; rename them")
    frame = X.reset_index(drop=True)
    if y is None:
        return frame, None if columns is None else columns.label
    if columns is not None and columns.label is None:
        raise ConfigError("y: given, but the description of the columns has no label")
    name = columns.label if columns is not None else str(getattr(y, "name", None) or LABEL)
    assert name is not None
    if name in frame:
        raise SiteDataError(f"column {name!r}: is the label and a column of X; drop it from X")
    labels = pd.Series(np.asarray(y) if not isinstance(y, pd.Series) else y).reset_index(drop=True)
    if len(labels) != len(frame):
        raise SiteDataError(f"y: {len(labels)} labels for {len(frame)} rows")
    return frame.assign(**{name: labels}), name


def _is_dropped(rule: DropRule, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    if rule.column not in frame:
        raise SiteDataError(
            f"the schema drops rows by column {rule.column!r}, which is not there; where they are "
            "gone already, give Columns.of_schema(schema) in place of the schema"
        )
    values = numbers_of(Column(rule.column, "continuous"), frame[rule.column])
    return values == rule.equals if rule.at_most is None else values <= rule.at_most


def _check_names(columns: Columns, frame: pd.DataFrame) -> None:
    wanted = [*columns.names, *([] if columns.label is None else [columns.label])]
    have = [str(name) for name in frame.columns]
    if missing := [name for name in wanted if name not in have]:
        hints = [f"{name!r}{did_you_mean(name, have)}" for name in missing]
        raise SiteDataError(f"the table has no column {', '.join(hints)}")
    if not columns.names:
        raise SiteDataError("the table has no column beside the label; nothing can be learned")


def check_bounds(column: Column, table: pd.DataFrame) -> None:
    """Refuse numbers outside the column's bounds: they are in another unit.

    Raises:
        SiteDataError: there are some.
    """
    values = table[column.name].to_numpy(dtype=np.float64)
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        unit = f" {column.unit}" if column.unit else ""
        raise SiteDataError(
            f"column {column.name!r}: {outside} of {len(values)} values are outside {low:g} to "
            f"{high:g}{unit}; are they in another unit?"
        )


def _check_classes(columns: Columns, table: pd.DataFrame, min_class_size: int) -> None:
    # Messages leave out how small a class is: with 1 or 2, the number points at a patient.
    if columns.label is None:
        if len(table) < min_class_size:
            raise SiteDataError(f"fewer rows than the minimum of {min_class_size} (min_class_size)")
        return
    sizes = np.bincount(class_codes(columns, table), minlength=len(columns.classes))
    if (sizes > 0).sum() < 2:
        raise SiteDataError(
            f"column {columns.label!r}: all rows have one class, so it is no label; leave the "
            "label out to learn the rows without it"
        )
    for name, size in zip(columns.class_names, sizes, strict=True):
        if size < min_class_size:
            raise SiteDataError(
                f"column {columns.label!r}: class {name!r} has fewer rows than the minimum of "
                f"{min_class_size} (min_class_size)"
            )
