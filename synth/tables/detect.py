"""What the rows themselves tell of their columns, where no schema does; every guess can be set.

Bounds and categories are those of the rows, marked `observed`: each may be a single patient's
value. Write them to a schema (`schema_yaml`) and correct it, and they become public knowledge.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import Scalar
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.identifiers import why_identifier
from fedward.synth.tables.reading import numbers_of
from fedward.synth.tables.scale import decimals_of
from fedward.synth.tables.schema_text import schema_yaml

__all__ = ["detect", "schema_yaml"]

FEW = 10
"""Most distinct whole numbers that are taken for categories."""
ROWS_PER_VALUE = 3
"""Fewest rows per distinct whole number, on average, for them to be taken for categories."""
MAX_CLASSES = 20
MOSTLY = 0.5
"""Share of cells from which on a column of many values is numbers with some text in it."""
_SETTABLE = {"kind", "low", "high", "decimals", "categories", "bounds", "unit", "missing"}


def detect(
    frame: pd.DataFrame,
    *,
    label: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    allow: Collection[str] = (),
) -> Columns:
    """Return what the columns of `frame` hold.

    Text, booleans and whole numbers of few values are categories, in sorted order (those of a
    `pandas.Categorical` in its own); all else are numbers between the smallest and the largest.

    Args:
        frame: (N) rows, at least one.
        label: the column that is predicted; its values are the classes.
        overrides: of a column's name, fields of `Column` that are known better, such as
            `{"stage": {"kind": "categorical"}, "age": {"low": 0, "high": 120}}`. A column whose
            bounds, or categories, are all given has public ones.
        allow: columns that look like identifiers, but are none.

    Raises:
        NoPatientsError: there is no row.
        SiteDataError: a column looks like an identifier, is empty, or mixes numbers and text; the
            label is missing somewhere, or has too many classes.
        ConfigError: `overrides`, `allow` or `label` name a column that is not there, or a field
            that no column has.
    """
    if len(frame) == 0:
        raise NoPatientsError("the table has no rows; nothing can be told of its columns")
    known = overrides or {}
    _check_settings(frame, label, known, allow)
    for name in frame.columns:
        reason = None if name in allow or name == label else why_identifier(name, frame[name])
        if reason is not None:
            raise SiteDataError(
                f"column {name!r}: {reason}; leave the column out, or allow it if it is no "
                "identifier (allow)"
            )
    return Columns(
        tuple(
            _column(frame[name], known.get(name, {}))
            for name in map(str, frame.columns)
            if name != label
        ),
        label,
        classes := () if label is None else _classes(frame[label]),
        tuple(map(str, classes)),
    )


def _check_settings(
    frame: pd.DataFrame,
    label: str | None,
    overrides: Mapping[str, Mapping[str, Any]],
    allow: Collection[str],
) -> None:
    named = {"label": [] if label is None else [label], "overrides": overrides, "allow": allow}
    for where, names in named.items():
        for name in names:
            if name not in frame:
                hint = did_you_mean(name, map(str, frame.columns))
                raise ConfigError(f"{where}: the table has no column {name!r}{hint}")
    for name, fields in overrides.items():
        if unknown := sorted(set(fields) - _SETTABLE):
            raise ConfigError(
                f"overrides: {name!r}: unknown {', '.join(unknown)}; known: "
                f"{', '.join(sorted(_SETTABLE))}"
            )


def _column(cells: "pd.Series[Any]", known: Mapping[str, Any]) -> Column:
    name = str(cells.name)
    missing = tuple(known.get("missing", ()))
    used = cells.mask(cells.isin(list(missing))) if missing else cells
    if used.isna().all():
        raise SiteDataError(f"column {name!r}: no row has a value; leave the column out")
    kind = known.get("kind") or _kind(used, name)
    guess: dict[str, Any] = {"bounds": "observed"}
    if kind == "categorical":
        guess["categories"] = _categories(used)
        if "categories" in known:
            guess["bounds"] = "public"
    else:
        values = numbers_of(Column(name, "continuous"), used)
        found = values[~np.isnan(values)]
        guess |= {
            "low": float(found.min()),
            "high": float(found.max()),
            "decimals": decimals_of(found),
        }
        if {"low", "high"} <= set(known):
            guess["bounds"] = "public"
    settings = guess | dict(known) | {"missing": missing, "kind": kind}
    settings["categories"] = tuple(settings.get("categories", ()))
    return Column(name, **settings)


def _kind(cells: "pd.Series[Any]", name: str) -> str:
    known = cells.dropna()
    if isinstance(known.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(known.dtype):
        return "categorical"
    distinct = known.nunique()
    values = pd.to_numeric(known, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    share = 1 - float(np.isnan(values).mean())
    if share < 1:
        if share > MOSTLY and distinct > FEW:
            numbers_of(Column(name, "continuous"), known)  # says what is wrong with it
        return "categorical"
    whole = bool(np.all(np.isfinite(values)) and np.all(values == np.round(values)))
    few = distinct <= min(FEW, len(known) / ROWS_PER_VALUE)
    # A constant, and two values in a handful of rows, are categories as well.
    return "categorical" if whole and (few or distinct <= 2) else "continuous"


def _categories(cells: "pd.Series[Any]") -> tuple[Scalar, ...]:
    """Return the distinct values: whole numbers as int, booleans as bool, all else as text."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        found = list(cells.cat.categories)
    else:
        found = list(cells.dropna().unique())
    if all(isinstance(one, bool | np.bool_) for one in found):
        return tuple(sorted(map(bool, found)))
    if all(isinstance(one, int | float | np.number) for one in found):
        numbers = sorted(map(float, found))
        return tuple(int(one) if one.is_integer() else one for one in numbers)
    words = [str(one).strip() for one in found]
    distinct = list(dict.fromkeys(words))
    return tuple(distinct if isinstance(cells.dtype, pd.CategoricalDtype) else sorted(distinct))


def _classes(cells: "pd.Series[Any]") -> tuple[Scalar, ...]:
    empty = int(cells.isna().sum())
    if empty:
        raise SiteDataError(
            f"column {cells.name!r}: {empty} of {len(cells)} labels are missing; leave these rows "
            "out"
        )
    classes = _categories(cells)
    if len(classes) > MAX_CLASSES:
        raise SiteDataError(
            f"column {cells.name!r}: {len(classes)} distinct labels, expected at most "
            f"{MAX_CLASSES} classes; is it the label?"
        )
    return classes
