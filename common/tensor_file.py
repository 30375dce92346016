"""`.safetensors` files in parts, so that a large model is written without a second copy of it.

`safetensors.numpy.save` returns the whole file as one byte string; `save_file` tells neither when
the file is on disk nor which error the disk had.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8
_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "float16": "F16",
    "uint32": "U32", "int32": "I32", "float32": "F32", "uint64": "U64", "int64": "I64",
    "float64": "F64",
}  # fmt: skip


def tensor_parts(
    arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """Return the parts of a `.safetensors` file: its header, and the arrays as they lie in memory.

    Raises:
        KeyError: an array is of a type that such files do not have.
    """
    # The widest first, so that each array begins where its type may begin.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    parts: list[bytes | memoryview] = []
    place = 0
    for name, array in ordered:
        little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        entries[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        parts.append(little.reshape(-1).view(np.uint8).data)
        place += array.nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return [len(header).to_bytes(8, "little") + header, *parts]
