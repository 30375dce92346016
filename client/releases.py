"""What left a site for synthetic rows, remembered for good: a budget over runs and studies.

Each further row of one's patients tells more of them, whoever asked and in whatever run: many rows
average the noise of a kernel density away. So the rows are counted in the site's database, which
outlives runs and restarts, and what was written there is never changed.

The same release asked for again (a message that is repeated after a crash) is the same rows, and
counts once; other patients, another model or another run make it another release.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedward.client.durable import Durable, now
from fedward.common.errors import RefusedError
from fedward.common.records import Vectors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS releases (
    number INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, run_key TEXT NOT NULL,
    what TEXT NOT NULL, release TEXT NOT NULL, rows INTEGER NOT NULL CHECK (rows >= 0),
    released TEXT NOT NULL, UNIQUE (site, release)
);
CREATE TRIGGER IF NOT EXISTS releases_no_update BEFORE UPDATE ON releases
    BEGIN SELECT RAISE(ABORT, 'what was released stays written down'); END;
CREATE TRIGGER IF NOT EXISTS releases_no_delete BEFORE DELETE ON releases
    BEGIN SELECT RAISE(ABORT, 'what was released stays written down'); END;
"""
ROWS = "rows"


@dataclass(frozen=True, repr=False)
class Release:
    """Something that is ready to leave. It has no repr."""

    site: str
    what: str
    """`rows`, or the name of a pass of sums."""
    name: str
    """SHA-256 of what it was made of: equal for equal releases."""
    vectors: Vectors
    num_patients: int
    """Fewest patients that anything in it was made of."""
    num_rows: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    noise_multiplier: float | None = None
    """Of a noised sum: standard deviation over the most that one patient adds; None: no noise."""


class ReleaseLedger:
    """The table of releases in a site's database.

    Args:
        path: the database; None keeps the table in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._table = Durable(path, _SCHEMA)

    def num_rows(self, site: str, *, except_run: str = "") -> int:
        """Return how many rows ever left, but for those of one run."""
        with self._table.transaction() as connection:
            (rows,) = connection.execute(
                "SELECT coalesce(sum(rows), 0) FROM releases WHERE site = ? AND run_key <> ?",
                (site, except_run),
            ).fetchone()
        return int(rows)

    def book(
        self,
        release: Release,
        *,
        run_key: str,
        limit: int,
        pay: Callable[[Release], None] = lambda release: None,
    ) -> int:
        """Write the release down before it leaves, and return how many rows are left after it.

        Args:
            release: ready to leave.
            run_key: of the run that asked.
            limit: most rows that may ever leave.
            pay: takes what a new release costs in privacy out of the site's budget.

        Raises:
            RefusedError: it is more than is left, or the sums of this run left already and these
                are others.
            StorageError: it cannot be written; then nothing may leave.
        """
        with self._table.transaction() as connection:
            rows, is_known = self._looked(connection, release, run_key=run_key, limit=limit)
        if is_known:
            return max(limit - rows, 0)
        pay(release)  # not inside: it writes to the same database
        with self._table.transaction() as connection:
            rows, is_known = self._looked(connection, release, run_key=run_key, limit=limit)
            if not is_known:
                connection.execute(
                    "INSERT INTO releases (site, run_key, what, release, rows, released)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (release.site, run_key, release.what, release.name, release.num_rows, now()),
                )
                rows += release.num_rows
        return max(limit - rows, 0)

    def close(self) -> None:
        """Close the database."""
        self._table.close()

    def _looked(
        self, connection: sqlite3.Connection, release: Release, *, run_key: str, limit: int
    ) -> tuple[int, bool]:
        """Return the rows that left before, and whether this very release did.

        Raises:
            RefusedError: it may not leave.
        """
        rows, known = connection.execute(
            "SELECT coalesce(sum(rows), 0), coalesce(sum(release = ?), 0) FROM releases"
            " WHERE site = ?",
            (release.name, release.site),
        ).fetchone()
        if known:
            return int(rows), True
        if release.what == ROWS:
            check_rows(release.num_rows, released=int(rows), limit=limit)
        elif connection.execute(
            "SELECT 1 FROM releases WHERE site = ? AND run_key = ? AND what = ?",
            (release.site, run_key, release.what),
        ).fetchone():
            raise RefusedError(
                f"sums ({release.what}) of this run left already, and what is asked for now is "
                "something else: other patients, or other sums of the sites. Submit the run again"
            )
        return int(rows), False


def check_rows(asked: int, *, released: int, limit: int) -> None:
    """Return if `asked` further rows may leave.

    Args:
        asked: rows of the run.
        released: rows that left before, in whatever run.
        limit: `limits.synthetic_rows` of site.yaml.

    Raises:
        RefusedError: they may not; the text says why and may leave.
    """
    if why := why_no_rows(asked, released=released, limit=limit):
        raise RefusedError(f"{why}; nothing is sent")


def why_no_rows(asked: int, *, released: int, limit: int) -> str | None:
    """Return which rule forbids so many further rows; None: none does."""
    if limit == 0:
        return "synthesis: the site lets no synthetic rows out (limits.synthetic_rows)"
    if released + asked > limit:
        return (
            f"synthesis.rows_per_site: the run asks for {asked} rows, and of the {limit} that the "
            f"site ever lets out {max(limit - released, 0)} are left (limits.synthetic_rows)"
        )
    return None
