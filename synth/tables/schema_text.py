"""Columns as the text of a schema, for people to correct."""

from typing import Any

import yaml

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import Scalar
from fedward.synth.tables.columns import Column, Columns

_HEAD = """\
# What was read off the rows. Check every range and category: a bound may be a single patient's
# value. Ranges should fit any living patient; add units.
"""


def schema_yaml(columns: Columns, *, name: str = "detected") -> str:
    """Return a schema in YAML that `fedward.common.tables.schema.load_schema` reads.

    Schemas need a range of every number and two categories at least: a constant number gets a
    range of one unit, and a single category the second one `other`.

    Args:
        columns: with a label whose classes are 0, 1, ... or false and true.
        name: of the schema.

    Raises:
        ConfigError: there is no label, its classes are others, or a number has no bounds.
    """
    classes = columns.classes
    if columns.label is None:
        raise ConfigError("a schema needs a label: name the column that is predicted")
    if columns.positive_above is None and list(classes) != list(range(len(classes))):
        raise ConfigError(
            f"label {columns.label!r}: the labels of a schema are 0, 1, ...; write them so first"
        )
    label: dict[str, Any] = {"column": columns.label, "classes": list(columns.class_names)}
    if columns.positive_above is not None:
        label["positive_above"] = columns.positive_above
    found: dict[str, Any] = {"version": 1, "name": name, "label": label}
    found["fields"] = [_field(column) for column in columns]
    if columns.constraints:
        found["constraints"] = [one.text for one in columns.constraints]
    return _HEAD + yaml.safe_dump(
        found, sort_keys=False, allow_unicode=True, default_flow_style=None, width=99
    )


def _field(column: Column) -> dict[str, Any]:
    field: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.unit:
        field["unit"] = column.unit
    if column.is_continuous:
        low, high = column.low, column.high
        if low is None or high is None:
            raise ConfigError(f"column {column.name!r}: a schema needs both its bounds")
        field["range"] = [low, high if high > low else low + 1]
        if column.decimals is not None:
            field["decimals"] = column.decimals
    else:
        field["categories"] = [_plain(one) for one in column.categories]
        if len(column.categories) == 1:
            field["categories"].append("other")
    if column.missing:
        field["missing"] = list(column.missing)
    return field


def _plain(category: Scalar) -> Scalar:
    return int(category) if isinstance(category, bool) else category
