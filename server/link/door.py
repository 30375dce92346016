"""What the front knows and bounds: the current roster, lines in the log, connections.

Whoever can reach the port can open connections and be refused, as often as they like. None of that
may fill the memory, the log, or the seats of the hospitals.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedward.common.errors import TrustError
from fedward.common.keys import read_public
from fedward.common.kit import Kit
from fedward.common.roster import Roster, read_roster

MAX_CONNECTIONS = 512
MAX_PER_ADDRESS = 64
"""Of one foreign address: a hospital needs a handful, and several may share a proxy."""
HEAD_S = 20.0
HEAD_BYTES = 32 << 10
LINES_PER_MINUTE = 60
log = logging.getLogger("fedward.front.door")


@dataclass(frozen=True)
class Known:
    """Whom the roster names at the moment."""

    roster: Roster
    node_keys: frozenset[str]
    """The sites' public keys as SuperNodes send them in a header; without revoked ones."""


class RosterFile:
    """The kit's roster, read again when its file changes: revocation needs no restart."""

    def __init__(self, kit: Kit) -> None:
        """Keep where it lies; `known` reads it."""
        self._file, self._ca_file = kit.roster_file, kit.ca_file
        self._seen: tuple[int, ...] = ()
        self._known: Known | None = None

    def known(self) -> Known:
        """Return whom the roster names now.

        Raises:
            TrustError: it cannot be read, or is not signed by the kit's authority; then nobody is
                let in, because the last one that could be read may name somebody who was revoked.
        """
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._known is None or seen != self._seen:
                self._known = None
                text = self._file.read_text(encoding="utf-8")
                roster = read_roster(text, self._ca_file.read_bytes())
                self._known, self._seen = Known(roster, _node_keys(roster)), seen
        except (OSError, UnicodeDecodeError) as error:
            self._known = None
            raise TrustError(f"{self._file}: cannot be read: {type(error).__name__}") from error
        return self._known


def _node_keys(roster: Roster) -> frozenset[str]:
    texts = (one.public_key for one in roster.sites if roster.site_of(one.public_key))
    return frozenset(_as_header(text) for text in texts)


def _as_header(public_key: str) -> str:
    """Return a public key as flwr 1.41 sends it: PEM, in base64."""
    pem = read_public(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(pem).decode("ascii")


class Bounded(logging.Filter):
    """Lets so many warnings a minute through, and then says how many there were.

    What is only information is about operators who were let in: it is never dropped.
    """

    def __init__(self, per_minute: int = LINES_PER_MINUTE) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._began, self._num_lines, self._num_dropped = time.monotonic(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        if record.levelno <= logging.INFO:
            return True
        if time.monotonic() - self._began >= 60:
            if self._num_dropped:
                record.msg = f"{record.getMessage()} (and {self._num_dropped} lines left out)"
                record.args = ()
            self._began, self._num_lines, self._num_dropped = time.monotonic(), 0, 0
        self._num_lines += 1
        if self._num_lines > self._per_minute:
            self._num_dropped += 1
            return False
        return True


class Seat(HttpToolsProtocol):
    """A connection of uvicorn's that is closed when it dawdles, or is one too many.

    uvicorn itself waits for ever for the first request of a connection, and reads a head of any
    length.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _num_head_bytes = 0
    _is_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a seat, if there is one."""
        super().connection_made(transport)
        why = _too_many(self.client, self.connections)
        if why:
            log.warning("refused %s: %s", address_of(self.client), why)
            self._close()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head is too long or too slow."""
        if self._is_closed:
            return
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._num_head_bytes > HEAD_BYTES:
            log.warning("refused %s: a request's head is too long", address_of(self.client))
            self._close()

    def on_headers_complete(self) -> None:
        """Go on without a clock: the program looks after the rest of the request."""
        self._forget_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._forget_timer()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._num_head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_S, self._close)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        self._is_closed = True
        self.transport.abort()


def _too_many(client: tuple[str, int] | None, connections: Iterable[Any]) -> str:
    seats = list(connections)
    if len(seats) > MAX_CONNECTIONS:
        return f"more than {MAX_CONNECTIONS} connections"
    host = address_of(client)
    # A proxy on this machine speaks for everybody, and counts by itself.
    if host.startswith("127.") or host == "::1":
        return ""
    mine = sum(address_of(one.client) == host for one in seats)
    return f"more than {MAX_PER_ADDRESS} connections" if mine > MAX_PER_ADDRESS else ""


def address_of(client: tuple[str, int] | None) -> str:
    """Return the address of the one at the other end."""
    return client[0] if client else "somebody"
