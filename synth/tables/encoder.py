"""A table to `Rows` and back: transformed and standardised numbers, bounds kept, decimals kept.

Shapes as in `rows.py`. Everything that is learned here is learned from the training rows, unless
an encoder is put together from public bounds (`public_encoder`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError, SiteDataError
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.rows import Bools, Floats, Ints, Rows
from fedward.synth.tables.scale import Scale, Transform, learn_scale, reflect

Missing = Literal["keep", "median"]


@dataclass(frozen=True)
class Form:
    """How a table is encoded."""

    transform: Transform = "auto"
    """Of numbers: logarithm above the lower bound, normal scores, none, or by skewness."""
    missing: Missing = "keep"
    """`keep`: missing cells are generated; `median`: filled (categories: by the commonest)."""
    bounded: bool = True
    """Whether decoded numbers are reflected at their bounds and rounded to their decimals."""


@dataclass(frozen=True, repr=False)
class Encoder:
    """How one table becomes rows and back; see `learn_encoder` and `public_encoder`.

    Args:
        columns: of the table.
        form: how it is encoded.
        scales: of the columns of numbers, in their order.
        modes: the code that fills missing cells, of the columns of categories, in their order.
    """

    columns: Columns
    form: Form
    scales: tuple[Scale, ...]
    modes: tuple[int, ...]

    def encode(self, frame: pd.DataFrame) -> Rows:
        """Return the rows of `frame`, a table in the form of `columns`.

        Raises:
            SiteDataError: a category is unknown.
        """
        size, num_values = len(frame), len(self.scales)
        values_NF = np.zeros((size, num_values))
        codes_NC = np.zeros((size, len(self.modes)), dtype=np.int64)
        absent_NM = np.zeros((size, num_values + len(self.modes)), dtype=bool)
        for place, (column, scale) in enumerate(
            zip(self.columns.continuous, self.scales, strict=True)
        ):
            raw = frame[column.name].to_numpy(dtype=np.float64)
            absent_NM[:, place] = np.isnan(raw)
            values_NF[:, place] = scale.forward(np.where(np.isnan(raw), scale.median, raw))
        for place, (column, mode) in enumerate(
            zip(self.columns.categorical, self.modes, strict=True)
        ):
            code = codes_of(column, frame)
            absent_NM[:, num_values + place] = code < 0
            codes_NC[:, place] = np.where(code < 0, mode, code)
        if self.form.missing == "median":
            return Rows(values_NF, codes_NC, np.zeros_like(absent_NM))
        values_NF[absent_NM[:, :num_values]] = 0.0
        codes_NC[absent_NM[:, num_values:]] = 0
        return Rows(values_NF, codes_NC, absent_NM)

    def decode(self, rows: Rows) -> pd.DataFrame:
        """Return the table that `rows` stand for, in the order of the columns."""
        found: dict[str, Any] = {}
        for place, (column, scale) in enumerate(
            zip(self.columns.continuous, self.scales, strict=True)
        ):
            z = rows.values_NF[:, place]
            x = self._kept(column, scale, z) if self.form.bounded else scale.backward(z)
            found[column.name] = np.where(rows.absent_NM[:, place], np.nan, x)
        for place, column in enumerate(self.columns.categorical):
            absent = rows.absent_NM[:, len(self.scales) + place]
            found[column.name] = categories_of(column, rows.codes_NC[:, place], absent)
        ordered = {name: found[name] for name in self.columns.names}
        return pd.DataFrame(ordered, index=pd.RangeIndex(len(rows)))

    def written(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return `table` with whole numbers as such, for files: 54, not 54.0; <NA> where missing.

        `checks.columns_for` reads it back to what it was.
        """
        kinds = {
            column.name: "Int64"
            for column, scale in zip(self.columns.continuous, self.scales, strict=True)
            if scale.decimals == 0
        }
        for column in self.columns.categorical:
            for kind, name in ((bool, "boolean"), (int, "Int64")):
                if all(type(one) is kind for one in column.categories):
                    kinds[column.name] = name
        return table.astype(kinds)

    def _kept(self, column: Column, scale: Scale, z: Floats) -> Floats:
        """Return raw values of z within the column's bounds, written in its decimals."""
        low, high = scale.written_bounds(column.low, column.high)
        x = scale.backward(reflect(z, scale.place(low), scale.place(high)))
        if scale.decimals is not None:
            x = np.round(x, scale.decimals) + 0.0  # no -0
        # What is left to cut is the error of a floating-point number.
        return x if low is None and high is None else np.clip(x, low, high)


def learn_encoder(columns: Columns, form: Form, frame: pd.DataFrame) -> Encoder:
    """Return the encoder of a table of training rows.

    Args:
        columns: of the table.
        form: how it is encoded.
        frame: the training rows, checked (`checks.py`).

    Raises:
        SiteDataError: a column has no value at all.
    """
    scales = []
    for column in columns.continuous:
        raw = frame[column.name].to_numpy(dtype=np.float64)
        filled = form.missing == "median"
        scales.append(learn_scale(column, raw, transform=form.transform, filled=filled))
    return Encoder(
        columns, form, tuple(scales), tuple(_mode(column, frame) for column in columns.categorical)
    )


def public_encoder(columns: Columns, form: Form) -> Encoder:
    """Return an encoder that no patient had a say in: numbers run from -1 to 1 over their bounds.

    Args:
        columns: with bounds of every number; how a number is written must be known as well, or it
            is not rounded.
        form: `transform` must be `none`.

    Raises:
        ConfigError: a number lacks a bound, or the form needs to be learned.
    """
    if form.transform != "none" or form.missing != "keep":
        raise ConfigError("an encoder without patients takes transform 'none' and missing 'keep'")
    scales = []
    for column in columns.continuous:
        if column.low is None or column.high is None:
            raise ConfigError(f"column {column.name!r}: needs a lowest and a highest value")
        middle = (column.low + column.high) / 2
        half = (column.high - column.low) / 2 or 1.0
        scales.append(Scale("none", 0.0, np.zeros(0), middle, half, middle, column.decimals))
    return Encoder(columns, form, tuple(scales), tuple(0 for _ in columns.categorical))


def codes_of(column: Column, frame: pd.DataFrame) -> Ints:
    """Return (N,) the place of each cell in `column.categories`; -1 where missing.

    Raises:
        SiteDataError: a cell is none of them.
    """
    cells = frame[column.name]
    if _is_numeric(column) and pd.api.types.is_numeric_dtype(cells.dtype):
        known = pd.Index(np.array(column.categories, dtype=np.float64))
        code = known.get_indexer(pd.Index(cells.to_numpy(dtype=np.float64, na_value=np.nan)))
    else:
        known = pd.Index(list(column.categories), dtype=object)
        code = known.get_indexer(pd.Index(cells, dtype=object))
    unknown = (code < 0) & cells.notna().to_numpy()
    if unknown.any():
        raise SiteDataError(
            f"column {column.name!r}: {int(unknown.sum())} of {len(cells)} cells hold none of its "
            f"{len(column.categories)} categories"
        )
    return code.astype(np.int64)


def categories_of(column: Column, code_N: Ints, absent_N: Bools) -> Any:
    """Return the (N,) cells of codes: float64 with NaN, text or objects with a missing value.

    The type follows from the categories alone, so that parts of a table can be joined.
    """
    if _is_numeric(column):
        table = np.array(column.categories, dtype=np.float64)
        return np.where(absent_N, np.nan, table[code_N])
    words = np.array(column.categories, dtype=object)[code_N]
    words[absent_N] = None
    is_text = all(isinstance(one, str) for one in column.categories)
    return pd.array(words, dtype="str") if is_text else pd.Series(words, dtype=object)


def _is_numeric(column: Column) -> bool:
    return all(isinstance(one, int | float) for one in column.categories)


def _mode(column: Column, frame: pd.DataFrame) -> int:
    code = codes_of(column, frame)
    known = code[code >= 0]
    if len(known) == 0:
        raise SiteDataError(f"column {column.name!r}: no row has a value; leave the column out")
    return int(np.bincount(known).argmax())
