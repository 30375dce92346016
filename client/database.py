"""Opens a site's one database: SQLite in WAL mode, written to disk before an answer leaves."""

import os
import sqlite3
import time
from pathlib import Path

from fedward.common.errors import StorageError

TIMEOUT_S = 60
MAPS = "cme"


def open_database(path: Path | None) -> sqlite3.Connection:
    """Return a connection to the site's database, made with mode 0600 if it is new.

    Args:
        path: an SQLite file; None keeps everything in memory, for runs that are never resumed.

    Raises:
        StorageError: the file cannot be opened, or is no database.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return _connect(path)
        except sqlite3.Error as error:
            # Of several processes that turn a new file to WAL, SQLite makes one succeed and
            # fails the others at once, whatever their timeout.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise StorageError(f"site database {path}: {error}") from error
            time.sleep(0.01)


def maps_folder(database: Path) -> Path:
    """Return where a site keeps its covariance maps: one folder per run, beside the database."""
    return database.parent / MAPS


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StorageError(f"site database {path}: {error.strerror}") from error
    target = ":memory:" if path is None else str(path)
    connection = sqlite3.connect(target, timeout=TIMEOUT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # a simulation's actors share one file
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
