"""The budget of synthetic rows: over runs, over restarts, for good."""

import sqlite3
from pathlib import Path

import pytest

from fedward.client.messages import MessageLedger
from fedward.client.releases import Release, ReleaseLedger
from fedward.client.retention import purge_old
from fedward.common.errors import RefusedError, StorageError


def rows(name: str, num_rows: int, site: str = "west") -> Release:
    return Release(site, "rows", name, {}, 40, num_rows=num_rows)


def test_rows_are_counted_over_runs_and_after_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    ledger = ReleaseLedger(database)
    assert ledger.book(rows("a", 600), run_key="one", limit=1000) == 400
    ledger.close()
    again = ReleaseLedger(database)
    with pytest.raises(RefusedError, match=r"asks for 500 rows, and of the 1000 .* 400 are"):
        again.book(rows("b", 500), run_key="two", limit=1000)
    assert again.book(rows("b", 400), run_key="two", limit=1000) == 0
    assert again.num_rows("west") == 1000
    assert again.num_rows("west", except_run="two") == 600


def test_the_same_release_again_is_free_and_another_is_not() -> None:
    ledger = ReleaseLedger(None)
    for _ in range(3):
        assert ledger.book(rows("a", 600), run_key="one", limit=1000) == 400
    assert ledger.num_rows("west") == 600
    with pytest.raises(RefusedError, match="400 are left"):
        ledger.book(rows("b", 600), run_key="one", limit=1000)


def test_each_site_of_a_simulation_has_its_own_budget() -> None:
    ledger = ReleaseLedger(None)
    ledger.book(rows("a", 900), run_key="one", limit=1000)
    assert ledger.book(rows("a", 900, "east"), run_key="one", limit=1000) == 100


def test_a_site_that_says_nothing_lets_no_row_out() -> None:
    with pytest.raises(RefusedError, match=r"lets no synthetic rows out \(limits.synthetic_rows\)"):
        ReleaseLedger(None).book(rows("a", 1), run_key="one", limit=0)


def test_sums_of_a_run_leave_once_however_often_other_ones_are_asked_for() -> None:
    ledger = ReleaseLedger(None)
    margins = Release("west", "margins", "a", {}, 40)
    for _ in range(2):
        ledger.book(margins, run_key="one", limit=0)
    with pytest.raises(RefusedError, match="left already"):
        ledger.book(Release("west", "margins", "b", {}, 40), run_key="one", limit=0)
    ledger.book(Release("west", "margins", "c", {}, 40), run_key="two", limit=0)
    assert ledger.num_rows("west") == 0


def test_a_new_release_is_paid_for_once_and_not_where_nobody_pays() -> None:
    ledger, paid = ReleaseLedger(None), []
    for _ in range(2):
        ledger.book(rows("a", 5), run_key="one", limit=10, pay=lambda new: paid.append(new.name))
    assert paid == ["a"]

    def cannot(release: Release) -> None:
        raise RefusedError("the budget is spent")

    with pytest.raises(RefusedError, match="is spent"):
        ledger.book(rows("b", 5), run_key="one", limit=10, pay=cannot)
    assert ledger.num_rows("west") == 5


@pytest.mark.parametrize(
    "statement",
    ["UPDATE releases SET rows = 0", "DELETE FROM releases", "UPDATE releases SET run_key = 1"],
)
def test_what_was_released_cannot_be_taken_back(tmp_path: Path, statement: str) -> None:
    ledger = ReleaseLedger(tmp_path / "site.sqlite")
    ledger.book(rows("a", 5), run_key="one", limit=10)
    ledger.close()
    connection = sqlite3.connect(tmp_path / "site.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="stays written down"):
        connection.execute(statement)
    connection.close()


def test_a_run_that_is_purged_leaves_its_rows_counted(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    messages, ledger = MessageLedger(database), ReleaseLedger(database)
    messages.begin("m1", run_key="one", round_number=1, phase="query.synthesis")
    ledger.book(rows("a", 600), run_key="one", limit=1000)
    messages.close()
    ledger.close()
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("UPDATE messages SET started = '2020-01-01'")
    connection.close()
    assert purge_old(database, days=30) == ["one"]
    assert ReleaseLedger(database).num_rows("west") == 600


def test_where_nothing_can_be_written_nothing_may_leave(tmp_path: Path) -> None:
    (tmp_path / "site.sqlite").mkdir()
    with pytest.raises(StorageError):
        ReleaseLedger(tmp_path / "site.sqlite").book(rows("a", 1), run_key="one", limit=5)
