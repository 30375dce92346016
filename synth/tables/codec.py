"""Python values as JSON and arrays, and back: only the types that are named here, nothing executed.

A type that is not known is refused, on the way out as on the way in. A dataclass becomes known by
`@storable`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedward.common.errors import StorageError
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.constraints import Constraint
from fedward.synth.tables.encoder import Encoder, Form
from fedward.synth.tables.rows import Rows
from fedward.synth.tables.scale import Scale

Array = npt.NDArray[Any]
T = TypeVar("T", bound=type)
_KIND = "type"
_SCHEMA = "TableSchema"
_PLAIN = "biufU"
"""Kinds of numpy types that hold their values themselves: no objects."""
_storable: dict[str, Any] = {}


def storable(cls: T) -> T:
    """Return the dataclass `cls`, from now on one that files may hold."""
    if not dataclasses.is_dataclass(cls) or cls.__name__ in _storable:
        raise ValueError(f"{cls.__name__} is no dataclass, or there is another one of that name")
    _storable[cls.__name__] = cls
    return cls


for _known in (Column, Columns, Constraint, Encoder, Form, Rows, Scale):
    storable(_known)


def pack(value: Any, arrays: dict[str, Array]) -> Any:
    """Return `value` as JSON can hold it, its arrays put into `arrays`.

    Raises:
        StorageError: it holds a type that files cannot.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KIND: "float", "value": str(value)}
    if isinstance(value, np.generic):
        return pack(value.item(), arrays)
    if isinstance(value, np.ndarray):
        return _pack_array(value, arrays)
    if isinstance(value, list):
        return [pack(one, arrays) for one in value]
    if isinstance(value, tuple):
        return {_KIND: "tuple", "items": [pack(one, arrays) for one in value]}
    if isinstance(value, Mapping):
        items = [[pack(key, arrays), pack(one, arrays)] for key, one in value.items()]
        return {_KIND: "dict", "items": items}
    if isinstance(value, TableSchema):
        return {_KIND: _SCHEMA, "value": value.model_dump_json()}
    name = type(value).__name__
    if _storable.get(name) is not type(value):
        raise StorageError(f"a {name} cannot be stored in a file of this kind")
    fields = {one.name: pack(getattr(value, one.name), arrays) for one in dataclasses.fields(value)}
    return {_KIND: name, "fields": fields}


def unpack(found: Any, arrays: Mapping[str, Array]) -> Any:
    """Return the value that `pack` was given.

    Raises:
        StorageError: it is none of the known types, or their fields are others.
    """
    if isinstance(found, list):
        return [unpack(one, arrays) for one in found]
    if not isinstance(found, dict):
        return found
    try:
        return _unpack_dict(found, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"not a stored value ({type(error).__name__})") from None


def _pack_array(value: Array, arrays: dict[str, Array]) -> Any:
    if value.dtype.kind not in _PLAIN:
        raise StorageError(f"an array of {value.dtype} cannot be stored in a file of this kind")
    name = f"array-{len(arrays)}"
    arrays[name] = value
    return {_KIND: "array", "name": name}


def _unpack_dict(found: dict[str, Any], arrays: Mapping[str, Array]) -> Any:
    kind = found[_KIND]
    if kind == "float":
        return float(found["value"])
    if kind == "array":
        return arrays[found["name"]]
    if kind == "tuple":
        return tuple(unpack(one, arrays) for one in found["items"])
    if kind == "dict":
        return {unpack(key, arrays): unpack(one, arrays) for key, one in found["items"]}
    if kind == _SCHEMA:
        return TableSchema.model_validate_json(found["value"])
    if kind not in _storable:
        raise StorageError("holds a type that is not known")
    fields = {name: unpack(one, arrays) for name, one in found["fields"].items()}
    if set(fields) != {one.name for one in dataclasses.fields(_storable[kind])}:
        raise StorageError(f"a {kind} with other fields; it was written by another version")
    return _storable[kind](**fields)
