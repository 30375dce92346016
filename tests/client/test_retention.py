"""What a run left at a site goes when its time is over; what a person decided stays."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients
from fedward.client.messages import MessageLedger
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Budget, Planned
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.retention import purge_old
from fedward.client.store import SiteStore
from fedward.common.privacy.accounting import Segment

SALT = bytes(32)
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


def test_patients_of_the_privacy_ledger_go_and_what_was_spent_on_them_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = PrivacyLedger(tmp_path / "site.sqlite", site="bern", budget=Budget())
    steps = (Segment(3.0, 0.05, 30),)
    for name, time in (("old", "2020-01-01"), ("new", "9999-01-01")):
        monkeypatch.setattr("fedward.client.privacy.book_store.now", lambda time=time: time)
        data = DataSet.of("bern", hash_patients([name], SALT), SALT)
        ledger.reserve(Planned(name, "run", "stroke", 1, steps, 1e-5), data)
    purge_old(tmp_path / "site.sqlite", days=30)
    _, known = ledger.read()
    assert list(known) == [data.name]
    # A third cohort shares nobody with the new one; of the old one that is not known any more.
    third = DataSet.of("bern", hash_patients(["third"], SALT), SALT)
    assert ledger.spent_on(third) == steps
    ledger.close()
