"""What a site remembers between rounds, in its own database.

Personal models, control variates and tensors that are not shared live here and nowhere else:
Flower's `context.state` is lost with a restart. Keyed by (run_key, site, round, name), two
rounds kept, so that a round that is asked for again starts from the state before it.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from fedward.client.database import open_database
from fedward.common.errors import StorageError
from fedward.common.tensor_file import tensor_parts

KEPT_ROUNDS = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
    run_key TEXT NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL, round INTEGER NOT NULL,
    content BLOB NOT NULL, PRIMARY KEY (run_key, site, name, round)
) WITHOUT ROWID
"""

Arrays = Mapping[str, npt.NDArray[Any]]


class SiteStore:
    """The arrays that sites keep, by run, site, round and name. It has no repr on purpose.

    Args:
        path: an SQLite file; None keeps the state in memory, for runs that are never resumed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def put(self, run_key: str, site: str, name: str, *, round_number: int, arrays: Arrays) -> None:
        """Remember `arrays` as the state after `round_number`; drop all but two rounds.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        content = b"".join(tensor_parts({k: np.asarray(value) for k, value in arrays.items()}))
        try:
            with self._open() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?)",
                    (run_key, site, name, round_number, content),
                )
                connection.execute(
                    "DELETE FROM state WHERE run_key = ? AND site = ? AND name = ? AND round NOT IN"
                    " (SELECT round FROM state WHERE run_key = ? AND site = ? AND name = ?"
                    "  ORDER BY round DESC LIMIT ?)",
                    (run_key, site, name, run_key, site, name, KEPT_ROUNDS),
                )
        except sqlite3.Error as error:
            raise StorageError(f"site store {self._path}: {error}") from error

    def get(
        self, run_key: str, site: str, name: str, *, before_round: int
    ) -> dict[str, npt.NDArray[Any]] | None:
        """Return the newest state from before `before_round`, or None if there is none."""
        row = (
            self._open()
            .execute(
                "SELECT content FROM state WHERE run_key = ? AND site = ? AND name = ?"
                " AND round < ? ORDER BY round DESC LIMIT 1",
                (run_key, site, name, before_round),
            )
            .fetchone()
        )
        return None if row is None else load(row[0])

    def sites_with(self, run_key: str, name: str) -> tuple[str, ...]:
        """Return the sites that keep arrays of this name for a run, sorted."""
        found = self._open().execute(
            "SELECT DISTINCT site FROM state WHERE run_key = ? AND name = ? ORDER BY site",
            (run_key, name),
        )
        return tuple(site for (site,) in found)

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_database(self._path)
            self._connection.execute(_SCHEMA)
        return self._connection
