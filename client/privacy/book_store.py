"""Keeps a site's privacy ledger: append-only, a chain of hashes, with anchors outside of it.

One anchor is a file beside the database (`anchor_file.py`), the other the site's log, whose heads
the coordinator keeps and signs. An entry is in the database first and in the anchors then, so that
a power cut leaves the anchors behind, never ahead. Where an anchor is ahead, something was removed.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from fedward.client.audit import AuditTrail
from fedward.client.durable import Durable, now
from fedward.client.privacy.anchor_file import AnchorFile
from fedward.client.privacy.entries import OPENED, RESERVED, Book, read_book
from fedward.common import chain
from fedward.common.chain import START, Anchor, Head, Row
from fedward.common.errors import StorageError

LOGGED = "privacy ledger"
"""The event of the site's log that names a head of the ledger."""
# The triggers stop mistakes, not somebody with the file: chain and anchors are what shows those.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS privacy_ledger (
    site TEXT NOT NULL, seq INTEGER NOT NULL, content TEXT NOT NULL, hash TEXT NOT NULL,
    PRIMARY KEY (site, seq)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS privacy_no_update BEFORE UPDATE ON privacy_ledger
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS privacy_no_delete BEFORE DELETE ON privacy_ledger
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TABLE IF NOT EXISTS privacy_data_sets (
    name TEXT PRIMARY KEY, site TEXT NOT NULL, salt_mark TEXT NOT NULL, patients BLOB NOT NULL
) WITHOUT ROWID;
"""


def forget_patients(connection: Connection, *, before: str) -> int:
    """Remove the hashed patients of data sets that were last used too long ago; return how many.

    What was spent stays. Which patients it was spent on is not known any more then, so it counts
    for all.

    Args:
        connection: to the site's database; the caller ends the transaction.
        before: ISO time in UTC.
    """
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'privacy_data_sets'")
    if tables.fetchone() is None:
        return 0
    return connection.execute(
        "DELETE FROM privacy_data_sets WHERE name NOT IN"
        " (SELECT json_extract(content, '$.data_set') FROM privacy_ledger"
        "  WHERE CASE WHEN json_valid(content) THEN json_extract(content, '$.event') = ?"
        "  AND json_extract(content, '$.time') >= ? ELSE 0 END)",
        (RESERVED, before),
    ).rowcount


class BookStore:
    """The entries of one site.

    Args:
        database: the site's; None keeps them in memory.
        site: its name.
        trail: the site's log, where heads of the ledger are named; None: there is none.
        is_shared: whether other sites' entries may be in the same file, as in a simulation, which
            has no anchors.
    """

    def __init__(
        self, database: Path | None, *, site: str, trail: AuditTrail | None, is_shared: bool
    ) -> None:
        self._site = site
        self._path = database
        self._trail = trail
        self._is_shared = is_shared
        self._table = Durable(database, _SCHEMA)
        self._file = None if database is None or is_shared else AnchorFile(database, site)
        self._opened_file: tuple[int, int] | None = None

    @contextmanager
    def opened(self) -> Iterator[tuple[Connection, Book]]:
        """Return a transaction and the whole ledger, verified; nobody else can write meanwhile.

        Raises:
            StorageError: the ledger is damaged or missing, or cannot be read.
        """
        anchors = self._anchors()  # first: what is appended from now on goes beyond them
        with self._table.transaction() as connection:
            self._check_file()
            yield connection, self._verified(connection, anchors)

    def append(
        self, connection: Connection, book: Book, *, event: str, facts: Mapping[str, Any]
    ) -> int:
        """Write an entry after the last one of `book`, and return its number.

        Args:
            connection: from `opened`.
            book: from `opened`, so that there is one entry in a transaction.
            event: one of those in `entries.py`.
            facts: JSON values.

        Raises:
            StorageError: it cannot be written.
        """
        head = Head(book.num_entries, book.last_hash)
        if head.seq == 0:
            if self._file is not None:
                self._file.write(0, START)  # before the first entry: later its absence is a sign
            head = self._insert(connection, head, OPENED, {"ledger": secrets.token_hex(16)})
        return self._insert(connection, head, event, facts).seq

    def anchor(self) -> None:
        """Name the last entry outside of the ledger. Its own transaction has ended.

        Raises:
            StorageError: it cannot be written.
        """
        with self._table.transaction() as connection:  # so that no older head overwrites a newer
            head = self._head(connection)
            if self._file is not None:
                self._file.write(head.seq, head.hash)
        if self._trail is not None:
            self._trail.append(LOGGED, ledger_seq=head.seq, ledger_hash=head.hash)

    def close(self) -> None:
        """Close the database."""
        self._table.close()
        self._opened_file = None

    def _anchors(self) -> list[Anchor]:
        """Return what is known of the ledger from outside of it."""
        found = []
        if self._file is not None and (anchor := self._file.read()) is not None:
            found.append(anchor)
        told = None if self._trail is None else self._trail.newest(LOGGED)
        if told is not None:
            found.append(self._logged(told))
        return found

    def _logged(self, entry: Mapping[str, Any]) -> Anchor:
        seq, last_hash = entry.get("ledger_seq"), entry.get("ledger_hash")
        if type(seq) is not int or not isinstance(last_hash, str):
            raise self._damaged("the site's log names a head of it that cannot be read")
        return Anchor(self._site, seq, last_hash)

    def _check_file(self) -> None:
        """Refuse to go on in a file that was removed: what is written there is lost."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except OSError as error:
            raise self._damaged("the site's database was removed while it was in use") from error
        here = (status.st_dev, status.st_ino)
        if self._opened_file not in (None, here):
            raise self._damaged("the site's database was replaced while it was in use")
        self._opened_file = here

    def _verified(self, connection: Connection, anchors: list[Anchor]) -> Book:
        rows = [
            Row(*row)
            for row in connection.execute(
                "SELECT seq, content, hash FROM privacy_ledger WHERE site = ? ORDER BY seq",
                (self._site,),
            )
        ]
        if not self._is_shared:
            self._check_alone(connection)
        if finding := chain.verify_chain(rows):
            raise self._damaged(finding.text)
        if rows and self._file is not None and not self._file.path.exists():
            raise self._damaged(f"{self._file.path} is gone, which says how many entries there are")
        head = Head(rows[-1].seq, rows[-1].hash) if rows else Head(0, START)
        for anchor in anchors:
            at = rows[anchor.seq - 1].hash if 0 < anchor.seq <= len(rows) else None
            if anchor.site != self._site:
                raise self._damaged(f"its anchor is of site {anchor.site}: it was copied here")
            if finding := chain.verify_anchor(anchor, head, at):
                raise self._damaged(finding.text)
        try:
            return read_book(self._site, rows, START)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _check_alone(self, connection: Connection) -> None:
        other = connection.execute(
            "SELECT site FROM privacy_ledger WHERE site <> ? LIMIT 1", (self._site,)
        ).fetchone()
        if other is not None:
            raise self._damaged(f"the database holds that of site {other[0]}: it was copied here")

    def _insert(
        self, connection: Connection, last: Head, event: str, facts: Mapping[str, Any]
    ) -> Head:
        seq = last.seq + 1
        content = chain.entry_content(seq, site=self._site, time=now(), event=event, **facts)
        head = Head(seq, chain.entry_hash(last.hash, content))
        connection.execute(
            "INSERT INTO privacy_ledger VALUES (?, ?, ?, ?)", (self._site, seq, content, head.hash)
        )
        return head

    def _head(self, connection: Connection) -> Head:
        row = connection.execute(
            "SELECT seq, hash FROM privacy_ledger WHERE site = ? ORDER BY seq DESC LIMIT 1",
            (self._site,),
        ).fetchone()
        return Head(0, START) if row is None else Head(*row)

    def _damaged(self, what: str) -> StorageError:
        return StorageError(
            f"privacy ledger of site {self._site}: {what}. What was spent on the patients is not "
            "known any more, so nothing is trained with differential privacy; keep a copy of the "
            "database, and see deploy/docs/privacy.md"
        )
