"""CSV and Parquet into a `Table`, checked column by column against the schema.

Messages name file, column, count and rule; they never show a value of a patient.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.errors import SiteDataError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import FieldSchema, SubgroupSchema, TableSchema
from fedward.common.tables.table import Table

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read_frame(path: Path) -> pd.DataFrame:
    """Return the file's columns as they are written, text where a cell is no number.

    Raises:
        SiteDataError: no such file, no rights, or not readable as CSV or Parquet.
    """
    if not path.name.endswith(TABLE_SUFFIXES):
        raise SiteDataError(f"{path}: expected a file ending in {', '.join(TABLE_SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, na_values=["?"], low_memory=False)
    except FileNotFoundError:
        raise SiteDataError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise SiteDataError(f"{path}: the file is empty; expected a header and rows") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        kind = getattr(error, "strerror", None) or type(error).__name__
        raise SiteDataError(f"{path}: cannot be read as a table ({kind})") from None


def table_from_frame(
    frame: pd.DataFrame,
    schema: TableSchema,
    *,
    place: str,
    excluded: Collection[Any] = (),
) -> Table:
    """Return the rows of `frame` as numbers, checked against `schema`.

    Args:
        frame: as `read_frame` returned it.
        schema: what the columns mean.
        place: file or site, for messages.
        excluded: patient ids that are dropped before anything else is looked at.

    Raises:
        SiteDataError: columns are missing or unknown, cells are not numbers, values are outside
            their range or category, labels are missing, or too few patients are left.
    """
    _check_columns(frame, schema, place)
    if excluded:
        if schema.patient_id is None:
            raise SiteDataError(
                f"{place}: patients are excluded, but the schema names no patient_id"
            )
        frame = frame[~frame[schema.patient_id].isin(list(excluded))]
    for rule in schema.drop:
        frame = frame[~(_numbers(frame[rule.column], rule.column, place) <= rule.at_most)]
    columns = {field.name: _column(frame[field.name], field, place) for field in schema.fields}
    label = _label(frame, schema, place)
    patient_id = _patient_ids(frame, schema)
    _check_cohort(len(np.unique(patient_id)), schema, place)
    subgroups = {rule.name: _members(frame, rule, columns, schema) for rule in schema.subgroups}
    return Table(columns, label, patient_id, subgroups)


def _check_columns(frame: pd.DataFrame, schema: TableSchema, place: str) -> None:
    needed = {field.name for field in schema.fields} | {schema.label.column}
    needed |= {rule.column for rule in schema.drop}
    needed |= {schema.patient_id} if schema.patient_id else set()
    have = [str(name) for name in frame.columns]
    missing = [name for name in sorted(needed) if name not in have]
    if missing:
        hints = [f"{name!r}{did_you_mean(name, have)}" for name in missing]
        raise SiteDataError(f"{place}: has no column {', '.join(hints)} (schema {schema.name})")
    extra = [name for name in have if name not in needed | set(schema.exclude)]
    if extra:
        raise SiteDataError(
            f"{place}: has columns that schema {schema.name} does not know: {', '.join(extra)}; "
            "describe them under fields, or name them under exclude"
        )


def _numbers(column: "pd.Series[Any]", name: str, place: str) -> npt.NDArray[np.float64]:
    """Return the column as floats, NaN where a cell is empty."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = int((np.isnan(numbers) & column.notna().to_numpy()).sum())
    if bad:
        raise SiteDataError(f"{place}: column {name!r}: {bad} cells are not numbers")
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise SiteDataError(f"{place}: column {name!r}: {infinite} cells are infinite")
    return np.array(numbers)


def _column(column: "pd.Series[Any]", field: FieldSchema, place: str) -> npt.NDArray[np.float64]:
    return (
        _continuous(column, field, place)
        if field.kind == "continuous"
        else _categorical(column, field, place)
    )


def _continuous(
    column: "pd.Series[Any]", field: FieldSchema, place: str
) -> npt.NDArray[np.float64]:
    values = _numbers(column, field.name, place)
    values[np.isin(values, [code for code in field.missing if not isinstance(code, str)])] = np.nan
    assert field.range is not None
    low, high = field.range
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        unit = f" {field.unit}" if field.unit else ""
        raise SiteDataError(
            f"{place}: column {field.name!r}: {outside} of {len(values)} values are outside "
            f"{low:g} to {high:g}{unit}; are they in another unit?"
        )
    return values


def _categorical(
    column: "pd.Series[Any]", field: FieldSchema, place: str
) -> npt.NDArray[np.float64]:
    codes = {_spelled(value): float(code) for code, value in enumerate(field.categories)}
    known_missing = {_spelled(code) for code in field.missing}
    values = np.full(len(column), np.nan)
    unknown = 0
    for value in column.dropna().unique():
        spelled = _spelled(value)
        if spelled in codes:
            values[(column == value).to_numpy(dtype=bool, na_value=False)] = codes[spelled]
        elif spelled not in known_missing:
            unknown += int((column == value).sum())
    if unknown:
        raise SiteDataError(
            f"{place}: column {field.name!r}: {unknown} cells are none of the categories "
            f"{', '.join(map(str, field.categories))}"
        )
    return values


def _spelled(value: Any) -> str:
    """Return the same text for 3, 3.0 and '3'."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


def _label(frame: pd.DataFrame, schema: TableSchema, place: str) -> npt.NDArray[np.int64]:
    label = schema.label
    values = _numbers(frame[label.column], label.column, place)
    missing = int(np.isnan(values).sum())
    if missing:
        raise SiteDataError(f"{place}: label {label.column!r}: {missing} rows have none")
    if label.positive_above is not None:
        return (values > label.positive_above).astype(np.int64)
    classes = values.astype(np.int64)
    wrong = int(((classes != values) | (classes < 0) | (classes >= schema.num_classes)).sum())
    if wrong:
        raise SiteDataError(
            f"{place}: label {label.column!r}: {wrong} rows are not a class "
            f"from 0 to {schema.num_classes - 1}"
        )
    return classes


def _patient_ids(frame: pd.DataFrame, schema: TableSchema) -> npt.NDArray[np.int64]:
    """Return a number per patient of this site; it means nothing elsewhere."""
    if schema.patient_id is None:
        return np.arange(len(frame), dtype=np.int64)
    codes, _ = pd.factorize(frame[schema.patient_id], sort=True)
    return codes.astype(np.int64)


def _check_cohort(num_patients: int, schema: TableSchema, place: str) -> None:
    if num_patients == 0:
        raise SiteDataError(f"{place}: no patient is left; the table has no usable row")
    if num_patients < schema.min_cohort:
        raise SiteDataError(
            f"{place}: fewer patients than the minimum cohort of {schema.min_cohort} "
            f"(schema {schema.name}: min_cohort)"
        )


def _members(
    frame: pd.DataFrame,
    rule: SubgroupSchema,
    columns: dict[str, npt.NDArray[np.float64]],
    schema: TableSchema,
) -> npt.NDArray[np.bool_]:
    """Return whether each row belongs to a subgroup; a missing value belongs to none."""
    values = columns[rule.column]
    if rule.equals is not None:
        field = next(field for field in schema.fields if field.name == rule.column)
        spelled = [_spelled(value) for value in field.categories]
        return np.asarray(values == spelled.index(_spelled(rule.equals)))
    if rule.at_least is not None:
        return np.asarray(values >= rule.at_least)
    return np.asarray(values < rule.below)
