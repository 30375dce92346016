"""What the front bounds, what it logs, and what it does without its SuperLink."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
)
from flwr.proto.node_pb2 import Node

from fedward.common.errors import NetworkError
from fedward.server.link import door
from fedward.server.link.door import Bounded
from fedward.server.link.front import FLEET_BYTES, make_server
from tests.server.coordinator import free_port, wait_until
from tests.server.front_stand import (
    LIST,
    Stand,
    activate,
    active,
    standing,
    status_of,
)

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("front")) as stand:
        yield stand


@pytest.mark.parametrize("path", ["/v1/fleet/push-object", LIST])
def test_a_body_that_is_too_large_or_endless_is_not_read(stand: Stand, path: str) -> None:
    context = ssl.create_default_context(cafile=str(stand.kit.ca_file))
    for length, status in (
        (f"Content-Length: {FLEET_BYTES + 1}", b"413"),
        (f"Content-Length: {'9' * 30}", b"4"),
        ("Transfer-Encoding: chunked", b"411"),
    ):
        raw = socket.create_connection(("127.0.0.1", stand.public.port), timeout=20)
        with context.wrap_socket(raw, server_hostname="localhost") as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_without_the_superlink_everybody_is_asked_to_come_again(stand: Stand) -> None:
    stand.behind.kill()
    try:
        with stand.fleet("hospital-a") as client, pytest.raises(httpx.HTTPStatusError) as error:
            activate(stand, "hospital-a", client)
        assert status_of(error) == 503  # the status on which a SuperNode tries again
        with stand.control() as control, pytest.raises(NetworkError, match="try again"):
            control.runs()
    finally:
        stand.behind.start()
    with active(stand, "hospital-a"):
        assert stand.process is not None
        assert stand.process.poll() is None


def test_the_log_has_one_bounded_line_per_refusal_and_no_secret(stand: Stand) -> None:
    before = stand.log.read_text().count("\n")
    with stand.client() as client:
        for _ in range(200):
            client.post("/v1/runtime/acquire-task%0Aforged line")
    text = stand.log.read_text()
    assert text.count("\n") - before <= 2 * door.LINES_PER_MINUTE
    assert "\nforged" not in text
    assert "PRIVATE" not in text
    nonce = stand.signer().headers(LIST, b"")
    stand.post(LIST, b"", nonce)
    assert nonce["fedward-signature"] not in stand.log.read_text()


def test_lines_that_were_left_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("fedward.server.link.door.time.monotonic", lambda: now)
    bounded = Bounded(per_minute=2)

    def passes(level: int) -> str | None:
        record = logging.LogRecord("front", level, "", 0, "refused %s", ("x",), None)
        return record.getMessage() if bounded.filter(record) else None

    assert [passes(logging.WARNING) for _ in range(4)] == ["refused x", "refused x", None, None]
    assert passes(logging.INFO) == "refused x"
    now += 61
    assert passes(logging.WARNING) == "refused x (and 2 lines left out)"


@contextlib.contextmanager
def serving(stand: Stand) -> Iterator[int]:
    """Yield the port of a front in this process, whose limits a test can change."""
    port = free_port()
    server, client = make_server(stand.kit, f"127.0.0.1:{port}", stand.behind.address)

    async def serve() -> None:
        async with client:
            await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join(20)


def test_a_connection_that_dawdles_or_babbles_is_closed(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "HEAD_S", 0.5)
    context = ssl.create_default_context(cafile=str(stand.kit.ca_file))
    with serving(stand) as port:
        for said in (b"", b"POST /v1/fleet", b"POST / HTTP/1.1\r\nx: " + b"y" * (1 << 20)):
            raw = socket.create_connection(("127.0.0.1", port), timeout=10)
            with context.wrap_socket(raw, server_hostname="localhost") as connection:
                assert _is_cut(connection, said)


def _is_cut(connection: ssl.SSLSocket, said: bytes) -> bool:
    try:
        connection.sendall(said)
        return connection.recv(100) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def test_one_address_cannot_take_all_seats(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    seats = [type("Seat", (), {"client": ("10.0.0.5", port)}) for port in range(65)]
    assert "more than 64" in door._too_many(("10.0.0.5", 1), seats)
    assert door._too_many(("10.0.0.6", 1), seats) == ""
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    context = ssl.create_default_context(cafile=str(stand.kit.ca_file))
    with serving(stand) as port, contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(
                context.wrap_socket(
                    socket.create_connection(("127.0.0.1", port), timeout=10),
                    server_hostname="localhost",
                )
            )
            for _ in range(2)
        ]
        assert _is_cut(connections[1], b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        connections[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")


def test_a_front_that_is_started_again_needs_nobody_else_to_be(stand: Stand) -> None:
    with stand.control() as control:
        control.runs()
        assert stand.process is not None
        os.kill(stand.process.pid, signal.SIGKILL)
        stand.process.wait()
        with pytest.raises(NetworkError):
            control.runs()
        stand.start()
        control.runs()
    with active(stand, "hospital-b") as (client, node):
        client.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
