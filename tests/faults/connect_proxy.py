"""An HTTP CONNECT proxy as hospitals run one: it knows which addresses may be reached."""

import asyncio
from collections.abc import Collection

from tests.faults.tcp_proxy import TcpProxy

MAX_HEAD_BYTES = 16_384


class ConnectProxy(TcpProxy):
    """Opens tunnels to the addresses on its list; everything else is refused and written down."""

    def __init__(
        self, allowed: Collection[tuple[str, int]], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(("", 0), host=host, port=port)
        self.allowed = set(allowed)
        self.refused: list[str] = []
        """The first line of each request that was not passed on."""

    @property
    def url(self) -> str:
        """The address as `site.yaml` wants it."""
        return f"http://{self.host}:{self.port}"

    async def _where_to(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first = head.split(b"\r\n", 1)[0].decode("latin-1")
        target = _target(first) if len(head) <= MAX_HEAD_BYTES else None
        if target is None or target not in self.allowed:
            self.refused.append(first)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return None
        return target

    async def _tell(self, writer: asyncio.StreamWriter, *, reached: bool) -> None:
        if reached:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()


def _target(line: str) -> tuple[str, int] | None:
    """Return host and port of `CONNECT host:port HTTP/1.1`; None if it is anything else."""
    words = line.split(" ")
    if len(words) != 3 or words[0] != "CONNECT":
        return None
    host, _, port = words[1].rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None
