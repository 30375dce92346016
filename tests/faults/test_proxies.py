import hashlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.connect_proxy import ConnectProxy
from tests.faults.tcp_proxy import TcpProxy, Terminated

pytestmark = pytest.mark.network


class Echo:
    """Sends back what it receives."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.context = context
        self.address: tuple[str, int] = self.socket.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        try:
            if self.context is not None:
                peer = self.context.wrap_socket(peer, server_side=True)
            with peer:
                while data := peer.recv(65_536):
                    peer.sendall(data)
        except OSError:
            pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.socket.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.address, records=True) as one:
        yield one


def call(port: int, timeout_s: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def exchange(peer: socket.socket, content: bytes) -> bytes:
    sender = threading.Thread(target=peer.sendall, args=(content,))
    sender.start()
    answer = bytearray()
    while len(answer) < len(content):
        chunk = peer.recv(65_536)
        if not chunk:
            break
        answer += chunk
    sender.join()
    return bytes(answer)


def test_what_passes_the_proxy_is_unchanged_counted_and_written_down(proxy: TcpProxy) -> None:
    content = hashlib.shake_256(b"fedward").digest(1_000_000)
    with call(proxy.port) as peer:
        assert exchange(peer, content) == content
    assert proxy.num_bytes == (1_000_000, 1_000_000)
    assert bytes(proxy.connections[0].up) == content


def test_latency_is_added_each_way(proxy: TcpProxy) -> None:
    proxy.line.latency_s = 0.05
    with call(proxy.port) as peer:
        started = time.monotonic()
        exchange(peer, b"x")
        assert 0.1 <= time.monotonic() - started < 0.5


def test_a_narrow_line_takes_its_time(proxy: TcpProxy) -> None:
    proxy.line.bytes_per_s = 2e6
    with call(proxy.port) as peer:
        started = time.monotonic()
        exchange(peer, b"x" * 1_000_000)
        assert 0.5 <= time.monotonic() - started < 2


def test_a_cut_ends_connections_refuses_new_ones_and_heals(proxy: TcpProxy) -> None:
    with call(proxy.port) as peer:
        exchange(peer, b"x")
        proxy.cut()
        assert hears_nothing(peer)
    with call(proxy.port) as peer:
        assert hears_nothing(peer)
    proxy.heal()
    with call(proxy.port) as peer:
        assert exchange(peer, b"back") == b"back"


def test_hanging_up_is_an_end_of_file_and_no_reset(proxy: TcpProxy) -> None:
    with call(proxy.port) as peer:
        exchange(peer, b"x")
        proxy.hang_up()
        assert peer.recv(1) == b""
    with call(proxy.port) as peer:
        assert peer.recv(1) == b""
    proxy.heal()
    with call(proxy.port) as peer:
        assert exchange(peer, b"back") == b"back"


def hears_nothing(peer: socket.socket) -> bool:
    """Return whether the connection is over."""
    try:
        peer.sendall(b"x")
        return peer.recv(1) == b""
    except ConnectionError:
        return True


def test_a_black_hole_keeps_the_connection_and_swallows_the_rest(proxy: TcpProxy) -> None:
    with call(proxy.port, timeout_s=0.3) as peer:
        exchange(peer, b"x")
        proxy.silence()
        peer.sendall(b"lost")
        with pytest.raises(TimeoutError):
            peer.recv(1)
        proxy.heal()
        assert hears_nothing(peer)


def test_a_connect_proxy_opens_only_tunnels_on_its_list(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        dead: tuple[str, int] = nobody.getsockname()
    with ConnectProxy([echo.address, dead]) as proxy:
        with call(proxy.port) as peer:
            peer.sendall(f"CONNECT 127.0.0.1:{echo.address[1]} HTTP/1.1\r\n\r\n".encode())
            assert peer.recv(100).startswith(b"HTTP/1.1 200")
            assert exchange(peer, b"through") == b"through"
        with call(proxy.port) as peer:
            peer.sendall(f"CONNECT 127.0.0.1:{dead[1]} HTTP/1.1\r\n\r\n".encode())
            assert peer.recv(100).startswith(b"HTTP/1.1 502")
        for line in ("CONNECT 127.0.0.1:1 HTTP/1.1", "GET http://example.org/ HTTP/1.1"):
            with call(proxy.port) as peer:
                peer.sendall(f"{line}\r\n\r\n".encode())
                assert peer.recv(100).startswith(b"HTTP/1.1 403")
        assert proxy.refused == ["CONNECT 127.0.0.1:1 HTTP/1.1", "GET http://example.org/ HTTP/1.1"]


def test_a_terminating_proxy_reads_what_was_encrypted(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 1 \
        -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    tls = Terminated(certificate, key, certificate)
    server = Echo(tls.inside())
    try:
        with TcpProxy(server.address, records=True, tls=tls) as proxy:
            with tls.outside().wrap_socket(call(proxy.port), server_hostname="127.0.0.1") as peer:
                assert exchange(peer, b"in clear") == b"in clear"
            assert bytes(proxy.connections[0].up) == b"in clear"
    finally:
        server.socket.close()
