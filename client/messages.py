"""Which messages the site has begun to answer, and how often: written before training starts.

A worker that dies is sent its message again. One that kills the worker each time must not do so
for ever, and the privacy ledger must know what was begun even where nothing was sent.
"""

from pathlib import Path

from fedward.client.durable import Durable, now

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    message_id TEXT PRIMARY KEY, run_key TEXT NOT NULL, round INTEGER NOT NULL,
    phase TEXT NOT NULL, started TEXT NOT NULL, attempts INTEGER NOT NULL
) WITHOUT ROWID;
"""


class MessageLedger:
    """The table of messages in a site's database.

    Args:
        path: the database; None keeps the table in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._table = Durable(path, _SCHEMA)

    def begin(self, message_id: str, *, run_key: str, round_number: int, phase: str) -> int:
        """Write down that work on a message begins, and return the how-manieth attempt this is.

        Raises:
            StorageError: it cannot be written; then no work may begin.
        """
        with self._table.transaction() as connection:
            (attempts,) = connection.execute(
                "INSERT INTO messages VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT (message_id)"
                " DO UPDATE SET attempts = attempts + 1 RETURNING attempts",
                (message_id, run_key, round_number, phase, now()),
            ).fetchone()
        return int(attempts)

    def close(self) -> None:
        """Close the database."""
        self._table.close()
