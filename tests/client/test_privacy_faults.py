"""What happens to a site's ledger: removed, copied, edited, rolled back, killed, used twice."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedward.client.audit import AuditTrail
from fedward.client.privacy.book_store import BookStore
from fedward.client.privacy.entries import Budget
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.common.errors import BudgetSpentError, StorageError
from fedward.common.privacy.accounting import Segment
from tests.client.test_privacy_ledger import (
    BUDGET,
    COHORT,
    cohort,
    ledger_at,
    reserve,
    rounds,
    spent,
)

FORK = multiprocessing.get_context("fork")  # the accountant is loaded already
HEAD = "privacy-bern.head"
SOME = cohort(*range(50, 60))
"""Another data set: whether it shares patients has to be looked up."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the folder of a site that has trained three rounds."""
    ledger = ledger_at(tmp_path)
    for number in (1, 2, 3):
        reserve(ledger, f"m{number}")
    ledger.close()
    return tmp_path


def tamper(folder: Path, *statements: str) -> None:
    """Change the file as somebody would who owns it: without the triggers."""
    connection = sqlite3.connect(folder / "site.sqlite")
    with connection:
        for trigger in ("privacy_no_update", "privacy_no_delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def refuses(folder: Path, why: str, **options: object) -> None:
    ledger = PrivacyLedger(folder / "site.sqlite", site="bern", budget=BUDGET, **options)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=why):
        reserve(ledger, "m4")
    with pytest.raises(StorageError, match=why):
        ledger.release("m3")
    ledger.close()


def remove_database(folder: Path) -> None:
    for path in folder.glob("site.sqlite*"):
        path.unlink()


def test_without_damage_the_fourth_round_is_counted(site: Path) -> None:
    assert reserve(ledger_at(site), "m4").epsilon == rounds(4)


@pytest.mark.parametrize(
    "change", ["UPDATE privacy_ledger SET hash = ''", "DELETE FROM privacy_ledger"]
)
def test_the_database_itself_refuses_to_change_an_entry(site: Path, change: str) -> None:
    connection = sqlite3.connect(site / "site.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(change)
    connection.close()


def test_a_database_that_was_removed_between_rounds_is_missed(site: Path) -> None:
    remove_database(site)
    refuses(site, "the end is cut off")


def test_a_database_that_is_removed_while_in_use_is_missed(site: Path) -> None:
    ledger = ledger_at(site)
    assert spent(ledger) > 0
    remove_database(site)
    with pytest.raises(StorageError, match="was removed"):
        reserve(ledger, "m4")
    ledger_at(site, Budget()).close()
    (site / "site.sqlite").touch()
    with pytest.raises(StorageError, match="was replaced"):
        reserve(ledger, "m4")


def test_an_anchor_that_was_removed_is_missed(site: Path) -> None:
    (site / HEAD).unlink()
    refuses(site, "is gone")


def test_an_anchor_that_was_overwritten_is_noticed(site: Path) -> None:
    (site / HEAD).write_text("{}\n")
    refuses(site, "not what was written there")


def test_where_both_were_removed_the_sites_log_tells(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "site.sqlite")
    ledger = PrivacyLedger(tmp_path / "site.sqlite", site="bern", budget=BUDGET, trail=trail)
    reserve(ledger, "m1")
    ledger.close()
    tamper(tmp_path, "DELETE FROM privacy_ledger")
    (tmp_path / HEAD).unlink()
    refuses(tmp_path, "the end is cut off", trail=trail)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "UPDATE privacy_ledger SET content = replace(content, '30', '3') WHERE seq = 2",
            "changed",
        ),
        ("DELETE FROM privacy_ledger WHERE seq = 3", "missing"),
        ("DELETE FROM privacy_ledger WHERE seq > 2", "cut off"),
        ("DELETE FROM privacy_ledger", "cut off"),
        ("DROP TABLE privacy_ledger", "cut off"),
        ("UPDATE privacy_ledger SET site = 'chur'", "it was copied here"),
        ("UPDATE privacy_data_sets SET patients = zeroblob(32)", "not those that were written"),
    ],
)
def test_whatever_was_edited_stops_the_site(site: Path, statement: str, why: str) -> None:
    tamper(site, statement)
    ledger = ledger_at(site)
    with pytest.raises(StorageError, match=why):
        reserve(ledger, "m4", SOME)


def test_an_old_copy_of_the_database_is_noticed(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1")
    ledger.close()
    shutil.copy(tmp_path / "site.sqlite", tmp_path / "backup")
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m2")
    ledger.close()
    remove_database(tmp_path)
    shutil.copy(tmp_path / "backup", tmp_path / "site.sqlite")
    refuses(tmp_path, "the end is cut off")


def test_a_ledger_that_was_written_anew_is_noticed(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ledger = ledger_at(other)
    for number in (1, 2, 3):
        reserve(ledger, f"m{number}", segments=(Segment(50.0, 0.01, 1),))
    ledger.close()
    remove_database(site)
    shutil.copy(other / "site.sqlite", site)
    refuses(site, "written anew")


def test_a_ledger_of_another_site_is_not_taken(site: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "chur"
    theirs.mkdir()
    shutil.copy(site / "site.sqlite", theirs)
    for head in (None, HEAD):
        if head is not None:
            shutil.copy(site / head, theirs / "privacy-chur.head")
        ledger = PrivacyLedger(theirs / "site.sqlite", site="chur", budget=BUDGET)
        with pytest.raises(StorageError, match="copied here"):
            reserve(ledger, "m4")
        ledger.close()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "site.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="site database"):
        reserve(ledger_at(tmp_path), "m1")


def test_patients_whose_hashes_were_removed_are_taken_to_be_the_same(site: Path) -> None:
    tamper(site, "DELETE FROM privacy_data_sets")
    assert spent(ledger_at(site), SOME) == rounds(3)


def run_and_kill(target: Callable[[Path], None], folder: Path) -> None:
    """Start `target` in a process, wait for its file `here`, and kill it as a power cut would."""
    process = FORK.Process(target=target, args=(folder,))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "here").exists():
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def wait_here(folder: Path) -> None:
    (folder / "here").touch()
    time.sleep(600)


def train_after_reserving(folder: Path) -> None:
    reserve(ledger_at(folder), "m1")
    wait_here(folder)


def stop_before_the_anchor(folder: Path) -> None:
    def stopped(self: BookStore) -> None:
        wait_here(folder)

    BookStore.anchor = stopped  # type: ignore[method-assign]
    reserve(ledger_at(folder), "m1")


def stop_before_the_commit(folder: Path) -> None:
    append = BookStore.append

    def stopped(*args: object, **facts: object) -> int:
        append(*args, **facts)  # type: ignore[arg-type]
        wait_here(folder)
        return 0

    BookStore.append = stopped  # type: ignore[method-assign]
    reserve(ledger_at(folder), "m1")


@pytest.mark.parametrize("target", [train_after_reserving, stop_before_the_anchor])
def test_a_site_that_is_killed_between_entry_and_training_has_spent_it(
    tmp_path: Path, target: Callable[[Path], None]
) -> None:
    run_and_kill(target, tmp_path)
    ledger = ledger_at(tmp_path)
    assert spent(ledger) == rounds(1)
    # Another round is another 30 steps; the same message again is the same ones.
    assert not reserve(ledger, "m1").is_new
    assert reserve(ledger, "m2").epsilon == rounds(2)


def test_a_site_that_is_killed_before_the_entry_was_written_goes_on(tmp_path: Path) -> None:
    # `reserve` had not returned: nothing was trained.
    run_and_kill(stop_before_the_commit, tmp_path)
    ledger = ledger_at(tmp_path)
    assert spent(ledger) == 0.0
    assert reserve(ledger, "m1").is_new


def reserve_until_refused(folder: Path, name: str) -> None:
    ledger = ledger_at(folder)
    for number in range(1000):
        try:
            reserve(ledger, f"{name}-{number}")
        except BudgetSpentError:
            (folder / f"{name}.count").write_text(str(number))
            return


def test_two_runs_at_once_do_not_spend_more_than_there_is(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    writers = [FORK.Process(target=reserve_until_refused, args=(tmp_path, one)) for one in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
        assert writer.exitcode == 0
    number = sum(int((tmp_path / f"{one}.count").read_text()) for one in names)
    total = spent(ledger_at(tmp_path))
    assert total == rounds(number) <= 3.0
    assert rounds(number + 1) > 3.0


def test_a_full_disk_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("No space left on device")

    monkeypatch.setattr("fedward.client.privacy.anchor_file.write_private", full)
    with pytest.raises(StorageError, match="No space"):
        reserve(ledger_at(tmp_path), "m1")
    monkeypatch.undo()
    assert spent(ledger_at(tmp_path), COHORT) == 0.0


def test_every_entry_is_synchronous(tmp_path: Path) -> None:
    store = BookStore(tmp_path / "site.sqlite", site="bern", trail=None, is_shared=False)
    with store.opened() as (connection, _):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()
