"""Raw cells to the form that `Columns` describes: numbers, known categories, classes.

Messages name column, count and rule; they never show a value of a patient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import Scalar
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.encoder import categories_of


def table_of(columns: Columns, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the described columns of `frame` in the described form, the label last.

    Args:
        columns: what the table holds; with `positive_above`, the label becomes 0 or 1, unless it
            holds nothing but 0 and 1 already.
        frame: has these columns; any others are left out.

    Raises:
        SiteDataError: a cell is no number, infinite, or none of the categories or classes, or a
            label is missing.
    """
    found: dict[str, object] = {}
    for column in columns:
        cells = frame[column.name]
        if column.is_continuous:
            found[column.name] = numbers_of(column, cells)
        else:
            code = codes_among(column.categories, cells, column.name, missing=column.missing)
            found[column.name] = categories_of(column, np.maximum(code, 0), code < 0)
    if columns.label is not None:
        found[columns.label] = classes_of(columns, _label_codes(columns, frame[columns.label]))
    return pd.DataFrame(found, index=pd.RangeIndex(len(frame)))


def numbers_of(column: Column, cells: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Return (N,) float64, NaN where a cell is empty or stands for missing.

    Single precision is read by its shortest decimal: 7.4, not 7.400000095.

    Raises:
        SiteDataError: cells are no numbers, or infinite.
    """
    if cells.dtype in (np.float32, np.float16):
        cells = cells.astype(str).astype(np.float64)
    known = cells.mask(cells.isin(list(column.missing))) if column.missing else cells
    values = pd.to_numeric(known, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = int((np.isnan(values) & known.notna().to_numpy()).sum())
    if bad:
        raise SiteDataError(
            f"column {column.name!r}: mixes numbers and text: {bad} of {len(cells)} cells are not "
            "numbers; correct them, or describe the column as categorical"
        )
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise SiteDataError(
            f"column {column.name!r}: {infinite} cells are infinite; empty them where the value "
            "is unknown"
        )
    return values


def codes_among(
    categories: Sequence[Scalar],
    cells: "pd.Series[Any]",
    name: str,
    *,
    missing: Sequence[Scalar] = (),
) -> npt.NDArray[np.int64]:
    """Return (N,) the place of each cell among `categories`, -1 where missing.

    1, 1.0, True and "1" are the same category.

    Raises:
        SiteDataError: cells are none of them.
    """
    places = {spelled(one): place for place, one in enumerate(categories)}
    gone = {spelled(one) for one in missing} - set(places)
    # Each distinct value is looked up once; empty cells have the place -1, the last.
    cell_place, distinct = pd.factorize(cells)
    unknown = len(categories)
    found = [-1 if spelled(one) in gone else places.get(spelled(one), unknown) for one in distinct]
    code = np.array([*found, -1], dtype=np.int64)[cell_place]
    num_unknown = int((code == unknown).sum())
    if num_unknown:
        raise SiteDataError(
            f"column {name!r}: {num_unknown} of {len(cells)} cells hold none of its "
            f"{len(categories)} categories; correct them, or describe the categories"
        )
    return code


def classes_of(columns: Columns, code_N: npt.NDArray[np.int64]) -> "pd.Series[Any]":
    """Return (N,) the values of the label's column of class codes."""
    kinds = {type(one) for one in columns.classes}
    if len(kinds) == 1:
        return pd.Series(np.array(columns.classes)[code_N])
    # numpy would turn 1 and "other" into two strings.
    return pd.Series(np.array(columns.classes, dtype=object)[code_N], dtype=object)


def spelled(value: Any) -> str:
    """Return the same text for 1, 1.0, True and "1"."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | float | np.number) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _label_codes(columns: Columns, cells: "pd.Series[Any]") -> npt.NDArray[np.int64]:
    assert columns.label is not None
    empty = int(cells.isna().sum())
    if empty:
        raise SiteDataError(
            f"column {columns.label!r}: {empty} of {len(cells)} labels are missing; leave these "
            "rows out"
        )
    if columns.positive_above is not None:
        values = numbers_of(Column(columns.label, "continuous"), cells)
        # A threshold from 1 up or below 0 would leave one class of these, which is no label.
        if not np.isin(values, (0, 1)).all():
            return (values > columns.positive_above).astype(np.int64)
    return codes_among(columns.classes, cells, columns.label)
