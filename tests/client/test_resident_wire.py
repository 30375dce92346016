"""Frames: what comes out is what went in, and nothing else comes in."""

import json
import random
import socket
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedward.client.resident import wire
from fedward.common.records import array_record

ARRAYS = {
    "parameters": np.array([0.1, -3e-38, 1e38], np.float32),
    "matrix": np.arange(6.0).reshape(2, 3),
    "flags": np.array([[True], [False]]),
    "nothing": np.empty((0, 4), np.int64),
    "scalar": np.array(2.5),
}


def frame() -> wire.Frame:
    records = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(values) for name, values in ARRAYS.items()}),
            "metrics": MetricRecord({"n": 3, "loss": 0.1 + 0.2, "each": [1.5, 2.0]}),
            "config": ConfigRecord({"text": "ä\u2028\\", "flag": True, "names": ["a", "b"]}),
        }
    )
    config: dict[str, wire.Plain] = {"request": '{"a": 1}', "count": 3, "rate": 0.1, "flag": False}
    return wire.Frame("train", records, "", 2**63 + 1, 2**64 - 1, "m1", "7", config)


def received(content: bytes) -> wire.Frame:
    """Return the frame that somebody gets who reads `content` from a socket."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.settimeout(5)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(content)
        theirs.close()
        return wire.receive(mine)


def raw(header: Any, *bodies: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + b"".join(bodies)


def header(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "kind": "train", "records": [], "reason": "", "run": 1, "node": 2, "message_id": "m",
        "group_id": "1", "run_config": {},
    }  # fmt: skip
    return plain | changes


def npy(values: np.ndarray[Any, Any], **options: Any) -> bytes:
    stream = BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def test_a_frame_arrives_as_it_was_sent() -> None:
    sent = frame()
    found = received(b"".join(wire.pack(sent)))
    arrays = found.records["arrays"]
    assert isinstance(arrays, ArrayRecord)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name].numpy(), values)
        assert arrays[name].numpy().dtype == values.dtype
    for name in ("metrics", "config"):
        assert dict(found.records[name].items()) == dict(sent.records[name].items())
    assert found.run_config == sent.run_config
    for name in ("kind", "run", "node", "message_id", "group_id"):
        assert getattr(found, name) == getattr(sent, name)


def test_arrays_of_our_own_are_sent_like_flowers() -> None:
    sent = wire.Frame(wire.REPLY, RecordDict({"arrays": array_record({"p": ARRAYS["matrix"]})}))
    arrays = received(b"".join(wire.pack(sent))).records["arrays"]
    assert isinstance(arrays, ArrayRecord)
    np.testing.assert_array_equal(arrays["p"].numpy(), ARRAYS["matrix"])


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"key": b"bytes"}),
        MetricRecord({"loss": float("nan")}),
        ArrayRecord({"a": Array("float32", (1,), "pickle", b"cos\nsystem\n")}),
        ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", npy(np.zeros(1, np.float32)))}),
    ],
)
def test_what_the_protocol_does_not_know_is_not_sent(
    record: ConfigRecord | MetricRecord | ArrayRecord,
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - many texts, one kind
        wire.pack(wire.Frame("train", RecordDict({"r": record})))


OBJECTS = npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)
FLOATS = npy(np.zeros(3, np.float32))
BAD_FRAMES = {
    "a header of 1 GiB": struct.pack(">I", 1 << 30) + b"{",
    "no JSON": raw(b"\x80\x04cos\nsystem\n."),
    "a list": raw([]),
    "a field too many": raw(header(more=1)),
    "a field too few": raw({"kind": "train"}),
    "an unknown kind": raw(header(kind="system")),
    "a kind with a path": raw(header(kind="query.../../x")),
    "a run that is text": raw(header(run="1")),
    "a flag as number": raw(header(run=True)),
    "nested configuration": raw(header(run_config={"a": {"b": 1}})),
    "NaN": raw(b'{"kind": NaN}'),
    "very deep": raw(b"[" * 100_000),
    "a huge number": raw(b'{"run": ' + b"9" * 10_000 + b"}"),
    "family pickle": raw(header(records=[["r", "pickle", "gASV"]])),
    "records as numbers": raw(header(records=[1, 2])),
    "a metric of text": raw(header(records=[["r", "metrics", {"a": "b"}]])),
    "metrics as list": raw(header(records=[["r", "metrics", [1]]])),
    "a nested dict": raw(header(records=[["r", "config", {"a": {"b": 1}}]])),
    "dtype object": raw(header(records=[["r", "arrays", [["a", "object", [1], len(OBJECTS)]]]]),
                        OBJECTS),
    "dtype object behind float32":
        raw(header(records=[["r", "arrays", [["a", "float32", [1], len(OBJECTS)]]]]), OBJECTS),
    "1 TiB": raw(header(records=[["r", "arrays", [["a", "float32", [1 << 38], 1 << 40]]]])),
    "2 GiB in pieces":
        raw(header(records=[["r", "arrays", [["a", "float32", [1 << 28], 1 << 30]] * 3]])),
    "a negative length": raw(header(records=[["r", "arrays", [["a", "float32", [1], -1]]]])),
    "another shape":
        raw(header(records=[["r", "arrays", [["a", "float32", [4], len(FLOATS)]]]]), FLOATS),
    "another type":
        raw(header(records=[["r", "arrays", [["a", "int32", [3], len(FLOATS)]]]]), FLOATS),
    "too short for its shape":
        raw(header(records=[["r", "arrays", [["a", "float32", [3], len(FLOATS) - 4]]]]),
            FLOATS[:-4]),
    "no npy": raw(header(records=[["r", "arrays", [["a", "float32", [1], 4]]]]), b"\0" * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_refused(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - many texts, one kind
        received(BAD_FRAMES[name])


def test_a_truncated_frame_is_a_lost_connection() -> None:
    whole = b"".join(wire.pack(frame()))
    for cut in (0, 3, 4, 50, len(whole) - 1):
        with pytest.raises(ConnectionError, match="went away"):
            received(whole[:cut])


@pytest.mark.filterwarnings("ignore")  # npy's parser has something to say on headers that it mends
def test_no_change_of_bytes_does_more_than_be_refused() -> None:
    whole, random_source = b"".join(wire.pack(frame())), random.Random(4)
    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(random_source.randint(1, 4)):
            changed[random_source.randrange(len(changed))] = random_source.randrange(256)
        try:
            found = received(bytes(changed))
        except (ValueError, OSError):
            continue
        for record in found.records.values():
            for array in record.values() if isinstance(record, ArrayRecord) else ():
                array.numpy()  # what was let in can be read without more ado


def test_a_frame_shows_nothing_of_its_content() -> None:
    assert "0.1" not in repr(frame())
    assert "request" not in repr(frame())
