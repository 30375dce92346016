"""Tables of a site's database that must not lose an entry, not even when the power fails."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedward.client.database import open_database
from fedward.common.errors import StorageError


def now() -> str:
    """Return the time in UTC as ISO text, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Durable:
    """A connection whose transactions are on disk when they end. Opened at the first use.

    Args:
        path: the site's database; None keeps everything in memory.
        schema: statements that make the tables where they are not there yet.
    """

    def __init__(self, path: Path | None, schema: str) -> None:
        self.path = path
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Return the connection inside a transaction that no other process can interleave.

        Raises:
            StorageError: the disk is full, or the file cannot be read or written.
        """
        with self._lock:
            try:
                connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
            except sqlite3.Error as error:
                raise StorageError(f"site database {self.path}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = open_database(self.path)
            connection.isolation_level = None  # transactions are begun and ended here
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(self._schema)
            self._connection = connection
        return self._connection
