"""What a run left at a site goes when its time is over; what a person decided stays."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedward.client.audit import AuditTrail
from fedward.client.messages import MessageLedger
from fedward.client.retention import purge_old
from fedward.client.store import SiteStore

SECRET = np.full(64, 3.14159, np.float32)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with an old run, a new one, and one of which no message is known."""
    path = tmp_path / "site.sqlite"
    store, ledger, trail = SiteStore(path), MessageLedger(path), AuditTrail(path)
    for run in ("old", "new", "unknown"):
        store.put(run, "bern", "local", round_number=1, arrays={"w": SECRET})
        trail.append("let out", run_key=run)
        if run != "unknown":
            ledger.begin(f"message of {run}", run_key=run, round_number=1, phase="train")
    for part in (store, ledger, trail):
        part.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE messages SET started = '2020-01-01' WHERE run_key = 'old'")
    connection.close()
    return path


def has_state(database: Path, run: str) -> bool:
    store = SiteStore(database)
    found = store.get(run, "bern", "local", before_round=9)
    store.close()
    return found is not None


def test_only_runs_whose_last_message_is_too_old_are_removed(database: Path) -> None:
    assert purge_old(database, days=30) == ["old"]
    assert [has_state(database, run) for run in ("old", "new", "unknown")] == [False, True, True]
    assert purge_old(database, days=30) == []


def test_the_log_stays_whole(database: Path) -> None:
    purge_old(database, days=30)
    trail = AuditTrail(database)
    assert trail.head.seq == 3
    assert trail.verify() == []


def test_what_was_removed_is_not_left_in_the_file(database: Path) -> None:
    def copies() -> int:
        files = [database, *database.parent.glob("site.sqlite-wal")]
        return sum(file.read_bytes().count(SECRET.tobytes()) for file in files)

    before = copies()
    purge_old(database, days=30)
    assert (before, copies()) == (3, 2)


def test_a_new_database_has_nothing_to_remove(tmp_path: Path) -> None:
    assert purge_old(tmp_path / "site.sqlite", days=1) == []
