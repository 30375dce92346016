"""A TCP proxy that makes a network bad on purpose: slow, narrow, cut, or silent.

It needs no rights of an administrator. It runs in a thread of its own and is changed while
traffic flows: `proxy.line.latency_s = 0.1`, `proxy.cut()`, `proxy.heal()`. With `Terminated` it
ends TLS with the server's own key and begins it again towards the server, so that the traffic
can be read.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

CHUNK_BYTES = 65_536
T = TypeVar("T")


@dataclass
class Line:
    """What the link does to the traffic of all its connections."""

    latency_s: float = 0.0
    """Added to each chunk, each way."""
    bytes_per_s: float | None = None
    """Of each direction, shared by all connections."""
    is_cut: bool = False
    """Connections end and new ones are refused."""
    ends_politely: bool = False
    """A cut ends connections in order (FIN), as a dying server does, instead of by RST."""
    is_silent: bool = False
    """A black hole: everything is accepted and nothing arrives."""


@dataclass
class Connection:
    """One connection, as the proxy saw it. `up` is towards the server."""

    target: tuple[str, int]
    peer: str = ""
    """Who called."""
    num_bytes_up: int = 0
    num_bytes_down: int = 0
    up: bytearray = field(default_factory=bytearray, repr=False)
    """What was said; empty unless the proxy records."""
    down: bytearray = field(default_factory=bytearray, repr=False)


@dataclass(frozen=True)
class Terminated:
    """What is needed to read TLS: the server's own certificate and key, and whom it trusts."""

    certificate: Path
    key: Path
    ca: Path

    def inside(self) -> ssl.SSLContext:
        """Return the context of the side that plays the server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def outside(self) -> ssl.SSLContext:
        """Return the context of the side that plays the client."""
        return ssl.create_default_context(cafile=str(self.ca))


class TcpProxy:
    """Listens on a port of its own and passes everything on to one address."""

    def __init__(
        self,
        target: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        records: bool = False,
        tls: Terminated | None = None,
    ) -> None:
        self.target = target
        self.host = host
        self.port = port
        self.records = records
        self.tls = tls
        self.line = Line()
        self.connections: list[Connection] = []
        self._free_at = {"up": 0.0, "down": 0.0}
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> Self:
        """Begin to listen, and return the proxy; `port` is now known."""
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        """End all connections and stop listening."""
        if self._loop.is_closed():
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """End all connections and refuse new ones until `heal`."""
        self.line.is_cut = True
        self._do(self._drop_all())

    def hang_up(self) -> None:
        """Cut as a dying server does: TLS sees an end of file, also in new handshakes."""
        self.line.ends_politely = True
        self.cut()

    def silence(self) -> None:
        """Swallow everything until `heal`; connections stay open, as behind a dead router."""
        self.line.is_silent = True

    def heal(self) -> None:
        """Let traffic pass again; connections from before a silence have lost bytes and end."""
        was_silent = self.line.is_silent
        self.line = Line()
        if was_silent:
            self._do(self._drop_all())

    def drop(self) -> None:
        """End all connections now; new ones are welcome."""
        self._do(self._drop_all())

    @property
    def num_bytes(self) -> tuple[int, int]:
        """Bytes up and down over all connections."""
        ups = sum(one.num_bytes_up for one in self.connections)
        return ups, sum(one.num_bytes_down for one in self.connections)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        context = self.tls.inside() if self.tls else None
        self._server = await asyncio.start_server(self._accept, self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._drop_all()

    async def _drop_all(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if not self.line.is_cut:
                await self._serve(reader, writer)
        except (OSError, EOFError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            if self.line.ends_politely:
                writer.close()
            else:
                _end(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = await self._where_to(reader, writer)
        if target is None:
            return
        seen = Connection(target, writer.get_extra_info("peername")[0])
        self.connections.append(seen)
        context = self.tls.outside() if self.tls else None
        try:
            there, onward = await asyncio.open_connection(*target, ssl=context)
        except OSError:
            await self._tell(writer, reached=False)
            return
        await self._tell(writer, reached=True)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, onward, seen, "up"))
                group.create_task(self._pump(there, writer, seen, "down"))
        except* OSError:
            pass
        finally:
            _end(onward)

    async def _where_to(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
        """Return where this connection leads; None ends it."""
        return self.target

    async def _tell(self, writer: asyncio.StreamWriter, *, reached: bool) -> None:
        """Tell the caller whether the target could be reached."""

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: Connection,
        way: str,
    ) -> None:
        """Pass one direction on until its end; ends the other direction with it."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(waiting, writer, way))
            while chunk := await reader.read(CHUNK_BYTES):
                self._note(seen, chunk, way)
                await waiting.put((self._loop.time() + self.line.latency_s, chunk))
            await waiting.put((0.0, b""))

    async def _deliver(
        self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str
    ) -> None:
        while True:
            due, chunk = await waiting.get()
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                else:  # TLS knows no half-closed connection
                    writer.close()
                return
            rate = self.line.bytes_per_s
            if rate is not None:
                begins = max(self._free_at[way], self._loop.time())
                self._free_at[way] = begins + len(chunk) / rate
                due = max(due, self._free_at[way])
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if self.line.is_silent:
                continue
            writer.write(chunk)
            await writer.drain()

    def _note(self, seen: Connection, chunk: bytes, way: str) -> None:
        if way == "up":
            seen.num_bytes_up += len(chunk)
        else:
            seen.num_bytes_down += len(chunk)
        if self.records:
            (seen.up if way == "up" else seen.down).extend(chunk)


def _end(writer: asyncio.StreamWriter) -> None:
    """End a connection at once: waiting for a peer that may be gone would take minutes."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.transport.abort()
