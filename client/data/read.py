"""CSV and Parquet into a `Table`, checked column by column against the schema.

Messages name file, column, count and rule; they never show a value of a patient.
"""

import decimal
import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.errors import SiteDataError
from fedward.common.images.rows import SIGNS
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import FieldSchema, Scalar, SubgroupSchema, TableSchema
from fedward.common.tables.table import Table

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
# pandas' own list holds None as well, which is an answer in many a questionnaire.
EMPTY_CELLS = ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
UNKNOWN = -1.0
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
"""Not 1_1 or 5e12345678, which Python takes for numbers: they are identifiers."""


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
        frame = pd.read_csv(path, na_values=EMPTY_CELLS, keep_default_na=False, low_memory=False)
    except FileNotFoundError:
        raise SiteDataError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise SiteDataError(f"{path}: the file is empty; expected a header and rows") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise SiteDataError(f"{path}: cannot be read as a table ({_kind(error)})") from None
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        # pandas takes the surplus cells for row names, and shifts all others under a wrong header.
        raise SiteDataError(f"{path}: rows have more cells than the header has names")
    return frame


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
        excluded: patient ids that are dropped before anything else is looked at; 7, 7.0 and "7"
            are the same patient.

    Raises:
        SiteDataError: columns are missing or unknown, cells are not numbers, values are outside
            their range or category, labels are missing, or too few patients are left.
    """
    check_columns(frame, schema, place)
    frame = usable_rows(frame, schema, place=place, excluded=excluded)
    patient_id = patient_numbers(frame, schema, place)
    schema.check_cohort(len(np.unique(patient_id)), place=place)
    columns = {field.name: column_of(frame[field.name], field, place) for field in schema.fields}
    label = label_of(frame, schema, place)
    subgroups = {rule.name: _members(rule, columns, schema) for rule in schema.subgroups}
    arrays = {SIGNS: signs_of(frame, schema, place)} if schema.signs else {}
    return Table(columns, label, patient_id, subgroups, arrays=arrays)


def usable_rows(
    frame: pd.DataFrame, schema: TableSchema, *, place: str, excluded: Collection[Any] = ()
) -> pd.DataFrame:
    """Return the rows that are left without excluded patients and those that the schema drops.

    Raises:
        SiteDataError: patients are excluded without a column that names them, or a column that
            decides is no number.
    """
    if excluded:
        frame = frame[~_is_excluded(frame, schema, excluded, place)]
    for rule in schema.drop:
        values = _numbers(frame[rule.column], rule.column, place)
        gone = values == rule.equals if rule.at_most is None else values <= rule.at_most
        frame = frame[~gone]
    return frame


def _kind(error: Exception) -> str:
    """Return what went wrong without the library's own text, which quotes cells."""
    line = re.search(r"\bline (\d+)", str(error)) if isinstance(error, ValueError) else None
    where = f", line {line.group(1)}" if line else ""
    return f"{getattr(error, 'strerror', None) or type(error).__name__}{where}"


def check_columns(frame: pd.DataFrame, schema: TableSchema, place: str) -> None:
    """Refuse a table that lacks a column of the schema, or has one that it does not know.

    Raises:
        SiteDataError: with the columns' names.
    """
    needed = {field.name for field in schema.fields}
    needed |= {schema.label_column} if schema.label_column else set()
    needed |= {rule.column for rule in schema.drop}
    needed |= {schema.patient_id} if schema.patient_id else set()
    have = [str(name) for name in frame.columns]
    missing = [name for name in sorted(needed) if name not in have]
    if missing and len(missing) == len(needed) and len(have) > 1:
        # Nothing of a first line that is no header is repeated: it would be a patient's row.
        raise SiteDataError(
            f"{place}: has none of the columns of schema {schema.name}; does the file start with "
            "a line of column names?"
        )
    if missing:
        hints = [f"{name!r}{did_you_mean(name, have)}" for name in missing]
        cause = "; is it separated by commas?" if len(have) == 1 else ""
        raise SiteDataError(
            f"{place}: has no column {', '.join(hints)} (schema {schema.name}){cause}"
        )
    extra = [name for name in have if name not in needed | {*schema.exclude, *schema.signs}]
    if extra:
        raise SiteDataError(
            f"{place}: has columns that schema {schema.name} does not know: {', '.join(extra)}; "
            "describe them under fields, or name them under exclude"
        )


def _is_excluded(
    frame: pd.DataFrame, schema: TableSchema, excluded: Collection[Any], place: str
) -> npt.NDArray[np.bool_]:
    if schema.patient_id is None:
        raise SiteDataError(f"{place}: patients are excluded, but the schema names no patient_id")
    gone = {spelled(patient) for patient in excluded}
    return np.array([spelled(patient) in gone for patient in frame[schema.patient_id]], dtype=bool)


def _numbers(
    column: "pd.Series[Any]", name: str, place: str, missing: Sequence[Scalar] = ()
) -> npt.NDArray[np.float64]:
    """Return the column as floats, NaN where a cell is empty or holds a code of `missing`."""
    column = column.mask(column.isin(list(missing))) if missing else column
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = int((np.isnan(numbers) & column.notna().to_numpy()).sum())
    if bad:
        raise SiteDataError(f"{place}: column {name!r}: {bad} cells are not numbers")
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise SiteDataError(f"{place}: column {name!r}: {infinite} cells are infinite")
    codes = [code for code in missing if not isinstance(code, str)]
    return np.where(np.isin(numbers, codes), np.nan, numbers)


def column_of(column: "pd.Series[Any]", field: FieldSchema, place: str) -> npt.NDArray[np.float64]:
    """Return the (N,) values of a field, or category indices; NaN where missing.

    Raises:
        SiteDataError: a cell is no number, out of range, or none of the categories.
    """
    read = _continuous if field.kind == "continuous" else _categorical
    return read(column, field, place)


def _continuous(
    column: "pd.Series[Any]", field: FieldSchema, place: str
) -> npt.NDArray[np.float64]:
    values = _numbers(column, field.name, place, field.missing)
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
    meaning = {spelled(value): float(code) for code, value in enumerate(field.categories)}
    meaning |= {spelled(code): np.nan for code in field.missing}
    # Each distinct value is looked up once; empty cells have the place -1, the last.
    places, found = pd.factorize(column)
    codes = np.array([*(meaning.get(spelled(value), UNKNOWN) for value in found), np.nan])
    values = codes[places]
    unknown = int((values == UNKNOWN).sum())
    if unknown:
        raise SiteDataError(
            f"{place}: column {field.name!r}: {unknown} cells are none of the categories "
            f"{', '.join(map(str, field.categories))}"
        )
    return values


def spelled(value: Any) -> str:
    """Return the same text for 3, 3.0, "3" and "03", and different texts for different numbers."""
    text = str(int(value) if isinstance(value, bool | np.bool_) else value).strip()
    if not NUMBER.fullmatch(text):
        return text
    # Exact, unlike a float or the usual 28 digits: long identifiers stay apart.
    exact = decimal.Context(prec=len(text))
    return str(exact.normalize(exact.plus(decimal.Decimal(text))))


def label_of(frame: pd.DataFrame, schema: TableSchema, place: str) -> npt.NDArray[np.int64]:
    """Return the (N,) class of each row; 0 where the schema has no label.

    Raises:
        SiteDataError: a row has none.
    """
    label = schema.label
    if label is None:
        return np.zeros(len(frame), dtype=np.int64)
    values = _numbers(frame[label.column], label.column, place)
    missing = int(np.isnan(values).sum())
    if missing:
        raise SiteDataError(f"{place}: label {label.column!r}: {missing} rows have none")
    if label.positive_above is not None:
        return (values > label.positive_above).astype(np.int64)
    wrong = int((~np.isin(values, np.arange(schema.num_classes))).sum())
    if wrong:
        raise SiteDataError(
            f"{place}: label {label.column!r}: {wrong} rows are not a class "
            f"from 0 to {schema.num_classes - 1}"
        )
    return values.astype(np.int64)


def signs_of(frame: pd.DataFrame, schema: TableSchema, place: str) -> npt.NDArray[np.int8]:
    """Return (N, S): 1, 0, or -1 where nobody looked, as where the table has no such column.

    Raises:
        SiteDataError: a cell is something else.
    """
    found = np.full((len(frame), len(schema.signs)), -1, dtype=np.int8)
    for place_of, name in enumerate(schema.signs):
        if name not in frame.columns:
            continue
        values = _numbers(frame[name], name, place)
        wrong = int((~np.isin(values, (0, 1)) & ~np.isnan(values)).sum())
        if wrong:
            raise SiteDataError(f"{place}: sign {name!r}: {wrong} cells are neither 0, 1 nor empty")
        found[:, place_of] = np.nan_to_num(values, nan=-1)
    return found


def patient_numbers(frame: pd.DataFrame, schema: TableSchema, place: str) -> npt.NDArray[np.int64]:
    """Return a number per patient of this site; it means nothing elsewhere.

    Raises:
        SiteDataError: a row names no patient.
    """
    if schema.patient_id is None:
        return np.arange(len(frame), dtype=np.int64)
    codes, _ = pd.factorize(frame[schema.patient_id], sort=True)
    nameless = int((codes < 0).sum())
    if nameless:
        raise SiteDataError(f"{place}: column {schema.patient_id!r}: {nameless} rows have none")
    return codes.astype(np.int64)


def _members(
    rule: SubgroupSchema, columns: dict[str, npt.NDArray[np.float64]], schema: TableSchema
) -> npt.NDArray[np.bool_]:
    """Return whether each row belongs to a subgroup; a missing value belongs to none."""
    values = columns[rule.column]
    if rule.equals is not None:
        (field,) = schema.select((rule.column,))
        return np.asarray(values == field.categories.index(rule.equals))
    low = -np.inf if rule.at_least is None else rule.at_least
    high = np.inf if rule.below is None else rule.below
    return np.asarray((values >= low) & (values < high))
