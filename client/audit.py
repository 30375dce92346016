"""The site's own log of what left, what was refused and what a person decided.

Entries are chained by hashes (`common/chain.py`) and on disk before anything leaves. They hold
names, forms, sizes and hashes, never a value. Whoever can write to the file can still cut its end
off or compute it anew; that shows against anchors: heads that the coordinator saw, in the site's
database with the coordinator's signature, and in the coordinator's `audit.jsonl`.
"""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedward.client.durable import Durable, now
from fedward.common import chain, keys
from fedward.common.chain import START, Anchor, Finding, Head, Row
from fedward.common.errors import TrustError

# The triggers stop mistakes, not somebody with the file: the chain is what shows those.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, content TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS audit_no_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
CREATE TABLE IF NOT EXISTS anchors (
    seq INTEGER PRIMARY KEY, text TEXT NOT NULL, signature TEXT NOT NULL
);
"""


class AuditTrail:
    """The append-only log in a site's database.

    Args:
        path: the database; None keeps the log in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._table = Durable(path, _SCHEMA)

    def append(self, event: str, **facts: Any) -> Head:
        """Write one entry and return the new head; the entry is on disk then.

        Args:
            event: what happened, such as `let out`.
            facts: JSON values; never a value of a patient.

        Raises:
            StorageError: it cannot be written.
        """
        with self._table.transaction() as connection:
            last = _head(connection)
            seq = last.seq + 1
            content = chain.entry_content(seq, time=now(), event=event, **facts)
            head = Head(seq, chain.entry_hash(last.hash, content))
            connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (seq, content, head.hash))
        return head

    @property
    def head(self) -> Head:
        """The last entry; `Head(0, START)` before the first."""
        with self._table.transaction() as connection:
            return _head(connection)

    def entries(self, last: int | None = None) -> list[dict[str, Any]]:
        """Return what was written, oldest first; only the newest `last` of them."""
        with self._table.transaction() as connection:
            rows = connection.execute(
                "SELECT content FROM audit ORDER BY seq DESC LIMIT ?",
                (-1 if last is None else last,),
            ).fetchall()
        return [_readable(content) for (content,) in reversed(rows)]

    def newest(self, event: str) -> dict[str, Any] | None:
        """Return the last entry of this kind; None where there is none."""
        with self._table.transaction() as connection:
            rows = connection.execute(
                "SELECT content FROM audit WHERE instr(content, ?) ORDER BY seq DESC",
                (json.dumps(event),),
            )
            entries = (_readable(text) for (text,) in rows)
            return next((entry for entry in entries if entry.get("event") == event), None)

    def keep_anchor(self, text: str, signature: str, *, model_key: str, site: str) -> Anchor:
        """Keep a head of this log that the coordinator signed, and return it.

        Args:
            text: as `chain.anchor_text` writes it.
            signature: of the coordinator's model key over `text`.
            model_key: its public key, from the pinned roster.
            site: the name of this site.

        Raises:
            TrustError: the signature is not of that key, it is about another site, or the log
                holds another entry than the one that was signed.
        """
        keys.verify(model_key, text.encode(), signature)
        anchor = chain.read_anchor(text, chain.ANCHOR_KIND)
        if anchor is None or anchor.site != site:
            raise TrustError(f"the coordinator signed something else than a log head of {site}")
        with self._table.transaction() as connection:
            finding = _compare(connection, anchor)
            if finding is None:
                connection.execute(
                    "INSERT OR REPLACE INTO anchors VALUES (?, ?, ?)", (anchor.seq, text, signature)
                )
        if finding is not None:
            raise TrustError(
                f"the coordinator saw another log than this one: {finding.text}; find out why with "
                "`fedward audit verify`"
            )
        return anchor

    def anchors(self) -> list[Anchor]:
        """Return the anchors that were kept, oldest first."""
        with self._table.transaction() as connection:
            rows = connection.execute("SELECT text FROM anchors ORDER BY seq").fetchall()
        found = [chain.read_anchor(text) for (text,) in rows]
        return [anchor for anchor in found if anchor is not None]

    def verify(
        self, anchors: Iterable[Anchor] = (), *, model_key: str | None = None
    ) -> list[Finding]:
        """Return what is wrong with the log; an empty list where it is whole.

        Args:
            anchors: heads that somebody else wrote down, beside those that were kept here.
            model_key: the coordinator's public key; with it, kept anchors whose signature does
                not fit are findings too.
        """
        with self._table.transaction() as connection:
            rows = connection.execute("SELECT seq, content, hash FROM audit ORDER BY seq")
            first = chain.verify_chain(Row(*row) for row in rows)
            findings = [] if first is None else [first]
            kept = connection.execute("SELECT text, signature FROM anchors ORDER BY seq").fetchall()
            for text, signature in kept:
                if model_key is not None and not _is_signed(text, signature, model_key):
                    findings.append(
                        Finding("edited", 0, "a kept anchor does not carry the server's signature")
                    )
            own = [chain.read_anchor(text) for text, _ in kept]
            for anchor in (*own, *anchors):
                finding = None if anchor is None else _compare(connection, anchor)
                if finding is not None and finding not in findings:
                    findings.append(finding)
        return findings

    def close(self) -> None:
        """Close the database."""
        self._table.close()


def read_anchors(path: Path, site: str) -> list[Anchor]:
    """Return the anchors of `site` in a coordinator's `audit.jsonl`; other lines are passed over.

    Raises:
        OSError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [chain.read_anchor(line) for line in lines]
    return [anchor for anchor in found if anchor is not None and anchor.site == site]


def _head(connection: sqlite3.Connection) -> Head:
    row = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(0, START) if row is None else Head(*row)


def _compare(connection: sqlite3.Connection, anchor: Anchor) -> Finding | None:
    row = connection.execute("SELECT hash FROM audit WHERE seq = ?", (anchor.seq,)).fetchone()
    return chain.verify_anchor(anchor, _head(connection), None if row is None else row[0])


def _is_signed(text: str, signature: str, model_key: str) -> bool:
    try:
        keys.verify(model_key, text.encode(), signature)
    except TrustError:
        return False
    return True


def _readable(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"event": "unreadable"}
