"""Typed frames between runner and worker: u32 length, JSON header, npy bytes; no pickle, no torch.

A header names every array with its type and shape before any array is read, and the arrays must be
what the header says: who speaks to the worker can send numbers and text, nothing that is executed.
"""

import json
import math
import re
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedward.common.flower import npy_parts

MAX_HEADER_BYTES = 4 << 20
MAX_BODY_BYTES = 2 << 30
REPLY, REFUSED, FAILED = "reply", "refused", "failed"

_ANSWERS = {REPLY, REFUSED, FAILED}
_INSTRUCTION = re.compile(r"(?:train|evaluate|query)(?:\.[A-Za-z0-9_]{1,64})?")
_DTYPES = {"float64", "float32", "float16", "int64", "int32", "uint8", "bool"}
_STYPE = "numpy.ndarray"
_PLAIN = (str, int, float, bool)
_LENGTH = struct.Struct(">I")

Plain = str | int | float | bool
Part = bytes | memoryview


@dataclass(frozen=True, repr=False)
class Frame:
    """One instruction or one answer. Without a repr: it holds a hospital's model."""

    kind: str
    """Flower's message type, or `reply`, `refused`, `failed`."""
    records: RecordDict = field(default_factory=RecordDict)
    reason: str = ""
    """Why there is no reply; it leaves the site as it stands."""
    run: int = 0
    node: int = 0
    message_id: str = ""
    group_id: str = ""
    """Flower's word for the round."""
    run_config: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def is_instruction(self) -> bool:
        """Whether the frame asks for something."""
        return self.kind not in _ANSWERS


def send(connection: socket.socket, frame: Frame) -> None:
    """Send `frame`; see `pack` for what it may hold."""
    send_packed(connection, pack(frame))


def send_packed(connection: socket.socket, parts: Sequence[Part]) -> None:
    """Send what `pack` returned."""
    for part in parts:
        connection.sendall(part)


def pack(frame: Frame) -> list[Part]:
    """Return the frame as the byte strings to send, in order; arrays are not copied.

    Raises:
        ValueError: the frame is too long, or a record holds bytes, NaN or infinity, an array of
            another kind, or something that is no record.
    """
    entries: list[list[object]] = []
    bodies: list[Part] = []
    for name, record in frame.records.items():
        if isinstance(record, ArrayRecord):
            arrays = []
            for key, array in record.items():
                parts = npy_parts(array)
                bodies += parts
                arrays.append([key, array.dtype, list(array.shape), sum(map(len, parts))])
                _check_array(arrays[-1], parts[0], array.stype)
            entries.append([name, "arrays", arrays])
        elif isinstance(record, MetricRecord | ConfigRecord):
            family = "metrics" if isinstance(record, MetricRecord) else "config"
            entries.append([name, family, dict(record.items())])
        else:
            raise ValueError(f"record {name} is of no known family")  # noqa: TRY004 - one kind for all
    header = {
        "kind": frame.kind, "records": entries, "reason": frame.reason,
        "run": frame.run, "node": frame.node, "message_id": frame.message_id,
        "group_id": frame.group_id, "run_config": dict(frame.run_config),
    }  # fmt: skip
    try:
        raw = json.dumps(header, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError("a record holds bytes, which are not part of the protocol") from error
    if len(raw) > MAX_HEADER_BYTES or sum(map(len, bodies)) > MAX_BODY_BYTES:
        raise ValueError("the message is too long")
    return [_LENGTH.pack(len(raw)) + raw, *bodies]


def receive(connection: socket.socket) -> Frame:
    """Return the next frame.

    Raises:
        ConnectionError: the other side went away.
        ValueError: these bytes are not a frame.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    raw = _exactly(connection, length)
    try:
        header = json.loads(raw, parse_constant=_no_constant)
        return _frame(header, lambda count: _exactly(connection, count))
    except (OSError, ValueError):
        raise
    except Exception as error:
        # Parsers of others, such as npy's, fail in many ways on bytes that mean harm.
        raise ValueError(f"the frame is malformed ({type(error).__name__})") from error


def _frame(header: Any, read: Callable[[int], bytes]) -> Frame:
    if type(header) is not dict or set(header) != _FIELDS:
        raise ValueError("the header has other fields than ours")
    wrong = [name for name, kind in _FIELD_TYPES.items() if type(header[name]) is not kind]
    if wrong:
        raise ValueError(f"the header's {wrong[0]} has a wrong type")
    if header["kind"] not in _ANSWERS and not _INSTRUCTION.fullmatch(header["kind"]):
        raise ValueError("a frame of no known kind")
    if not all(type(value) in _PLAIN for value in header["run_config"].values()):
        raise ValueError("run_config holds more than plain values")
    entries = [(str(name), family, items) for name, family, items in header.pop("records")]
    _check_sizes(entries)  # of all, before memory is taken for one
    records = RecordDict()
    for name, family, items in entries:
        records[name] = _READERS[family](items, read)
    return Frame(records=records, **header)


_FIELD_TYPES = {
    "kind": str, "reason": str, "run": int, "node": int, "message_id": str, "group_id": str,
    "run_config": dict, "records": list,
}  # fmt: skip
_FIELDS = set(_FIELD_TYPES)


def _check_sizes(entries: list[tuple[str, str, Any]]) -> None:
    total = 0
    for _, family, items in entries:
        if family != "arrays":
            continue
        for _, _, _, num_bytes in items:
            if type(num_bytes) is not int or num_bytes < 0:
                raise ValueError("an array's length is no length")
            total += num_bytes
    if total > MAX_BODY_BYTES:
        raise ValueError(f"arrays of {total} bytes")


def _read_arrays(items: Any, read: Callable[[int], bytes]) -> ArrayRecord:
    record = ArrayRecord()
    for entry in items:
        key, dtype, shape, num_bytes = entry
        body = read(num_bytes)
        _check_array(entry, body, _STYPE)
        record[key] = Array(dtype=dtype, shape=tuple(shape), stype=_STYPE, data=body)
    return record


def _check_array(entry: list[Any], head: Part, stype: str) -> None:
    """Refuse an array whose bytes, of which `head` has the first, are not what its entry says."""
    key, dtype, shape, num_bytes = entry
    if type(key) is not str or dtype not in _DTYPES or stype != _STYPE:
        raise ValueError("an array of a kind that is not sent")
    stream = BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array in another version of npy")
    written_shape, _, written_dtype = np.lib.format.read_array_header_1_0(stream)
    if list(written_shape) != shape or written_dtype != np.dtype(dtype):
        raise ValueError("an array is not what the header says")
    if min(shape, default=0) < 0:
        raise ValueError("an array of negative length")
    if stream.tell() + math.prod(shape) * written_dtype.itemsize != num_bytes:
        raise ValueError("an array is longer or shorter than the header says")


_READERS: Mapping[str, Callable[..., ArrayRecord | MetricRecord | ConfigRecord]] = {
    "arrays": _read_arrays,
    "metrics": lambda items, _: MetricRecord(items),
    "config": lambda items, _: ConfigRecord(items),
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not sent")


def _exactly(connection: socket.socket, count: int) -> bytes:
    got, stream = 0, BytesIO(bytes(count))  # which gives its bytes away without a copy
    with stream.getbuffer() as view:
        while got < count:
            received = connection.recv_into(view[got:])
            if not received:
                raise ConnectionError(f"the other side went away after {got} of {count} bytes")
            got += received
    return stream.getvalue()
