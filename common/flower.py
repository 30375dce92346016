"""The few places where fedward leans on Flower's inside, in one file, for flwr 1.41 exactly.

Flower gives each process a task identity and each message an id when a SuperLink is there; an
engine of ours has to set both. `LazyArray` is Flower's `Array` without the detour over npy
bytes, which costs 90 us per array even where both ends share one process, and several times the
memory of a large model where they do not.
`tests/common/test_flower.py` fails loudly when flwr changes any of it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import count
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_children_ids_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry
from flwr.supercore.task_identity import TaskIdentity

from fedward.common.vectors import vector_hash

SERVER_NODE_ID = 0
_message_numbers = count(1)


_NAMES = {np.dtype(name): name for name in ("float32", "float64")}


class LazyArray(Array):
    """An `Array` that holds the ndarray itself and writes npy bytes only when asked for `data`.

    `numpy()` returns a copy, as Flower's own does: some of its strategies compute in place.
    """

    values: npt.NDArray[Any]

    def __init__(self, values: npt.NDArray[Any]) -> None:
        # By way of __dict__: Flower's __setattr__ looks for cached chunks at every assignment.
        self.__dict__.update(
            values=values,
            dtype=_NAMES.get(values.dtype) or str(values.dtype),
            shape=values.shape,
            stype="numpy.ndarray",
        )

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The npy bytes, as any Flower component expects them on the wire."""
        return b"".join(npy_parts(self))

    @property
    def sha256(self) -> str:
        """SHA-256 of the values' bytes, computed once per object."""
        if "_sha256" not in self.__dict__:
            self.__dict__["_sha256"] = vector_hash(self.values)
        return str(self.__dict__["_sha256"])

    def numpy(self) -> npt.NDArray[Any]:
        """Return a writable copy of the values."""
        return self.values.copy()

    def slice_array(self) -> list[tuple[str, InflatableObject]]:
        """Return the npy bytes in chunks, which look at the values instead of copying them."""
        known = self.__dict__.get("_chunks")
        if known is None:
            chunks = [ArrayChunk(piece) for piece in _pieces(*npy_parts(self))]
            known = self.__dict__["_chunks"] = [(chunk.object_id, chunk) for chunk in chunks]
        found: list[tuple[str, InflatableObject]] = known
        return found

    def deflate(self) -> bytes:
        """Return what a plain `Array` sends: the receiver looks classes up by name."""
        plain = Array(self.dtype, self.shape, self.stype, b"")
        plain.__dict__["_chunks"] = self.slice_array()
        return plain.deflate()

    def __reduce__(self) -> tuple[type["LazyArray"], tuple[npt.NDArray[Any]]]:
        return LazyArray, (self.values,)


class _JoinedArray(Array):
    """Puts an `Array` together from the chunks that came, with one copy instead of two."""

    @classmethod
    def inflate(
        cls, object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> Array:
        """Return a plain `Array`, as Flower's own does."""
        chunks = children or {}
        array = Array.inflate(object_content, {key: ArrayChunk(_NOTHING) for key in chunks})
        ids = get_object_children_ids_from_object_content(object_content)
        places = json.loads(get_object_body(object_content, Array))["arraychunk_ids"]
        array.data = b"".join(vars(chunks[ids[place]])["data"] for place in places)
        return array


_NOTHING = memoryview(b"")
inflatable_class_registry[Array.__qualname__] = _JoinedArray

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def fill(record: Record, values: Mapping[str, Any]) -> Record:
    """Put values that need no check into a new record; Flower's check costs 5 us per value."""
    record.__dict__["_data"].update(values)
    return record


class Records(RecordDict):
    """A `RecordDict` whose views by kind are plain dicts; Flower's cost 20 us at every look."""

    def __init__(self, records: Mapping[str, ArrayRecord | ConfigRecord | MetricRecord]) -> None:
        super().__init__()
        self.__dict__["_data"].update(records)

    def deflate(self) -> bytes:
        """Return what a plain `RecordDict` sends: the receiver looks classes up by name."""
        return RecordDict(dict(self.items())).deflate()

    @property
    def array_records(self) -> dict[str, ArrayRecord]:  # type: ignore[override]
        """The ArrayRecords by name."""
        return {k: record for k, record in self.items() if isinstance(record, ArrayRecord)}

    @property
    def metric_records(self) -> dict[str, MetricRecord]:  # type: ignore[override]
        """The MetricRecords by name."""
        return {k: record for k, record in self.items() if isinstance(record, MetricRecord)}


def npy_parts(array: Array) -> tuple[bytes | memoryview, ...]:
    """Return the npy bytes of `array` in parts, without copying values that are there already."""
    if not isinstance(array, LazyArray):
        return (array.data,)
    values = np.asarray(array.values, order="C")
    header = BytesIO()
    facts = np.lib.format.header_data_from_array_1_0(values)
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue(), values.reshape(-1).view(np.uint8).data


def _pieces(*parts: bytes | memoryview) -> Iterator[memoryview]:
    """Yield header and values of an npy file in Flower's chunks; only the first is a copy."""
    header, values = parts
    rest = CHUNK_BYTES - len(header)
    yield memoryview(bytes(header) + values[:rest])
    for place in range(rest, len(values), CHUNK_BYTES):
        yield memoryview(values)[place : place + CHUNK_BYTES]


def view(array: Array) -> npt.NDArray[Any]:
    """Return the values of `array` without a copy where they lie in memory as such; do not write.

    Raises:
        ValueError, EOFError, TypeError: it holds something else.
    """
    if isinstance(array, LazyArray):
        return array.values
    if array.stype == "numpy.ndarray":
        data = BytesIO(array.data)
        if np.lib.format.read_magic(data) == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(data)
            size = math.prod(shape)
            if size > 0 and not is_fortran and not dtype.hasobject:
                values = np.frombuffer(array.data, dtype, count=size, offset=data.tell())
                return values.reshape(shape)
    return array.numpy()


def array_hash(array: Array) -> str:
    """Return the SHA-256 of the values' bytes."""
    return array.sha256 if isinstance(array, LazyArray) else vector_hash(view(array))


def num_bytes(array: Array) -> int:
    """Return the size of the values in bytes, without writing them out."""
    return array.values.nbytes if isinstance(array, LazyArray) else len(array.data)


def assume_server_identity(run_id: int) -> None:
    """Let this process create instruction messages of run `run_id`."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE_ID


def with_content(message: Message, content: RecordDict) -> Message:
    """Return a message with the same metadata and another content."""
    return Message(metadata=message.metadata, content=content)  # type: ignore[call-overload, no-any-return] # "for internal use only"


def stamp(message: Message) -> Message:
    """Give `message` the id that a SuperLink would give it, and return it."""
    message.metadata.__dict__["_message_id"] = f"m{next(_message_numbers)}"
    return message
