"""The few places where fedward leans on Flower's inside, in one file, for flwr 1.41 exactly.

Flower gives each process a task identity and each message an id when a SuperLink is there; an
engine of ours has to set both. `LazyArray` is Flower's `Array` without the detour over npy
bytes, which costs 90 us per array even where both ends share one process.
`tests/common/test_flower.py` fails loudly when flwr changes any of it.
"""

from collections.abc import Mapping
from io import BytesIO
from itertools import count
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
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
        buffer = BytesIO()
        np.save(buffer, self.values, allow_pickle=False)
        return buffer.getvalue()

    @property
    def sha256(self) -> str:
        """SHA-256 of the values' bytes, computed once per object."""
        if "_sha256" not in self.__dict__:
            self.__dict__["_sha256"] = vector_hash(self.values)
        return str(self.__dict__["_sha256"])

    def numpy(self) -> npt.NDArray[Any]:
        """Return a writable copy of the values."""
        return self.values.copy()

    def deflate(self) -> bytes:
        """Return what a plain `Array` sends: the receiver looks classes up by name."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[type["LazyArray"], tuple[npt.NDArray[Any]]]:
        return LazyArray, (self.values,)


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


def view(array: Array) -> npt.NDArray[Any]:
    """Return the values of `array` without a copy where there is one already; do not write."""
    return array.values if isinstance(array, LazyArray) else array.numpy()


def array_hash(array: Array) -> str:
    """Return the SHA-256 of the values' bytes."""
    return array.sha256 if isinstance(array, LazyArray) else vector_hash(array.numpy())


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
