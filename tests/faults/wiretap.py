"""What was said on a recorded connection: HTTP requests, Flower's messages, records and arrays.

The proxy wrote down bytes; here they become `Spoken` requests and, for what sites sent, `Reply`
objects with the name, dtype, shape and size of everything inside. `variants` lists the forms in
which a secret could hide.
"""

import base64
import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.proto import fleet_pb2, message_pb2
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # no stubs

from tests.faults.tcp_proxy import Connection

ALLOWED_PATHS = {
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
}
"""All that a SuperNode with a registered key has to ask for."""


NOT_SEEN = "not all of its objects were seen"


@dataclass(frozen=True)
class Spoken:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One message that a site pushed."""

    message_type: str
    error: str | None
    content: RecordDict | None

    @property
    def shapes(self) -> dict[str, list[tuple[str, str, tuple[int, ...]]]]:
        """Per ArrayRecord: key, dtype and shape of its arrays."""
        records = self.content or RecordDict()
        return {
            name: [(key, array.dtype, tuple(array.shape)) for key, array in record.items()]
            for name, record in records.items()
            if isinstance(record, ArrayRecord)
        }

    @property
    def keys(self) -> dict[str, set[str]]:
        """Per metric or config record: the names of its values."""
        records = self.content or RecordDict()
        return {
            name: set(record)
            for name, record in records.items()
            if isinstance(record, MetricRecord | ConfigRecord)
        }


def requests_of(stream: bytes) -> Iterator[Spoken]:
    """Yield the HTTP/1.1 requests of one direction of one connection, whole ones only."""
    for first, headers, body in _messages_of(stream):
        method, path, _ = first.split(" ", 2)
        yield Spoken(method, path, headers, body)


def _messages_of(stream: bytes) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yield first line, headers and body of each whole HTTP message."""
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        first, *lines = stream[at:end].decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        if "chunked" in headers.get("transfer-encoding", ""):
            body, at = _chunked(stream, end + 4)
        else:
            length = int(headers.get("content-length", "0"))
            body, at = stream[end + 4 : end + 4 + length], end + 4 + length
        if at > len(stream):
            return
        yield first, headers, body


def _chunked(stream: bytes, at: int) -> tuple[bytes, int]:
    """Return a chunked body and where it ends."""
    body = bytearray()
    while True:
        line_end = stream.index(b"\r\n", at)
        size = int(stream[at:line_end].split(b";")[0], 16)
        body += stream[line_end + 2 : line_end + 2 + size]
        at = line_end + 2 + size + 2
        if size == 0:
            return bytes(body), at


def all_requests(connections: Iterable[Connection]) -> list[Spoken]:
    """Return every request of the connections."""
    return [spoken for one in connections for spoken in requests_of(bytes(one.up))]


def objects_of(connections: Iterable[Connection]) -> dict[str, bytes]:
    """Return all objects that were sent, either way, by the hash that names them.

    What the server holds already is not sent again: a receipt equals the binding that came down.
    """
    found: dict[str, bytes] = {}
    for one in connections:
        for spoken in requests_of(bytes(one.up)):
            if spoken.path.endswith("/push-object"):
                part = message_pb2.PushObjectRequest.FromString(spoken.body)
                found[part.object_id] = part.object_content
        for _, headers, body in _messages_of(bytes(one.down)):
            if "protobuf" in headers.get("content-type", ""):
                with contextlib.suppress(DecodeError):
                    content = message_pb2.PullObjectResponse.FromString(body).object_content
                    found[hashlib.sha256(content).hexdigest()] = content
    return found


def replies_of(spoken: Iterable[Spoken], objects: Mapping[str, bytes]) -> list[Reply]:
    """Return the messages that were pushed, put together again from their objects."""
    pushed: list[tuple[message_pb2.Message, message_pb2.ObjectTree]] = []
    for one in spoken:
        if one.path.endswith("/push-messages"):
            request = fleet_pb2.PushMessagesRequest.FromString(one.body)
            pushed += zip(request.messages_list, request.message_object_trees, strict=True)
    return [_reply(message, tree, objects) for message, tree in pushed]


def _reply(
    message: message_pb2.Message, tree: message_pb2.ObjectTree, objects: Mapping[str, bytes]
) -> Reply:
    kind = message.metadata.message_type
    if message.HasField("error"):
        return Reply(kind, message.error.reason, None)
    parts = {part.object_id for part in iterate_object_tree(tree)}
    if not parts <= set(objects):
        return Reply(kind, NOT_SEEN, None)
    whole = inflate_object_from_contents(tree.object_id, dict(objects), keep_object_contents=True)
    content = getattr(whole, "content", None)
    return Reply(kind, None, content if isinstance(content, RecordDict) else None)


def variants(secret: str | bytes) -> list[bytes]:
    """Return the forms in which `secret` would be recognised: plain, base64 at all offsets, hex."""
    plain = secret.encode() if isinstance(secret, str) else secret
    found = [plain, plain.hex().encode()]
    for offset in range(3):
        # The characters at both ends depend on the neighbours; those between do not.
        coded = base64.b64encode(b"\0" * offset + plain).rstrip(b"=")
        found.append(coded[4 if offset else 0 : len(coded) - 1])
    return [one for one in found if len(one) >= 6]


def unpacked(content: bytes, depth: int = 2) -> Iterator[bytes]:
    """Yield `content`, and whatever gzip or zlib streams inside it hold, nested `depth` times."""
    yield content
    if depth == 0:
        return
    for magic, width in ((b"\x1f\x8b\x08", 31), (b"\x78\x9c", 15), (b"\x78\xda", 15)):
        at = content.find(magic)
        while at >= 0:
            try:
                inner = zlib.decompressobj(width).decompress(content[at:], 50_000_000)
            except zlib.error:
                inner = b""
            if inner:
                yield from unpacked(inner, depth - 1)
            at = content.find(magic, at + 1)
    for coded in (b"H4sI",):  # base64 of a gzip header
        at = content.find(coded)
        while at >= 0:
            text = bytes(_base64_run(content, at))
            with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
                yield gzip.decompress(base64.b64decode(text + b"=" * (-len(text) % 4)))
            at = content.find(coded, at + 4)


_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def _base64_run(content: bytes, at: int) -> Iterator[int]:
    while at < len(content) and content[at] in _BASE64:
        yield content[at]
        at += 1


def leaks(content: bytes, secrets: Iterable[str | bytes]) -> list[str | bytes]:
    """Return the secrets that `content` holds in any form that is looked for."""
    layers = list(unpacked(content))
    return [
        secret
        for secret in secrets
        if any(form in layer for form in variants(secret) for layer in layers)
    ]
