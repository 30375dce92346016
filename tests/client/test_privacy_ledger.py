"""The ledger of a site: everything that was planned is counted, once, over rounds and studies."""

import dataclasses
import math
import time
from pathlib import Path

import pytest

from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Budget, Planned
from fedward.client.privacy.ledger import PrivacyLedger, Reservation
from fedward.common.errors import BudgetSpentError, ConfigError, RefusedError
from fedward.common.privacy.accounting import Segment, epsilon_of

DELTA = 1e-5
SALT = bytes(range(32))
STEPS = (Segment(3.0, 0.05, 30),)
BUDGET = Budget(3.0, DELTA)
PLAN = Planned("m1", "stroke-seed1", "stroke", 1, STEPS, DELTA)


def cohort(*patients: int, salt: bytes = SALT) -> DataSet:
    return DataSet.of("bern", hash_patients(patients, salt), salt)


COHORT = cohort(*range(100))


def ledger_at(folder: Path | None, budget: Budget = BUDGET) -> PrivacyLedger:
    path = None if folder is None else folder / "site.sqlite"
    return PrivacyLedger(path, site="bern", budget=budget)


def reserve(
    ledger: PrivacyLedger, message: str, data: DataSet = COHORT, **other: object
) -> Reservation:
    plan = dataclasses.replace(PLAN, message_id=message, **other)  # type: ignore[arg-type]
    return ledger.reserve(plan, data)


def rounds(number: int) -> float:
    """Return what so many rounds cost, by the history as a whole."""
    return epsilon_of([Segment(3.0, 0.05, 30 * number)], DELTA)


def spent(ledger: PrivacyLedger, data: DataSet = COHORT) -> float:
    return epsilon_of(ledger.spent_on(data), DELTA)


def test_rounds_add_up_to_one_history(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    found = [reserve(ledger, f"m{number}").epsilon for number in range(5)]
    expected = [rounds(number) for number in range(1, 6)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert spent(ledger) == found[-1]


def test_a_restart_between_rounds_changes_nothing(tmp_path: Path) -> None:
    for number in range(5):
        ledger = ledger_at(tmp_path)
        last = reserve(ledger, f"m{number}")
        ledger.close()
    assert last.epsilon == rounds(5)


def test_an_accountant_that_is_reset_on_restart_would_be_seen(tmp_path: Path) -> None:
    # The classic bug: what a fresh accountant says is less than half of what is true.
    last = [reserve(ledger_at(tmp_path), f"m{number}") for number in range(12)][-1]
    fresh = reserve(ledger_at(None), "m")
    assert fresh.epsilon < last.epsilon / 2
    assert last.epsilon == pytest.approx(rounds(12), rel=1e-12)


def test_studies_share_the_budget_of_their_patients(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "a", study="stroke", run_key="stroke-1")
    last = reserve(ledger, "b", study="sepsis", run_key="sepsis-1", segments=(Segment(3, 0.2, 9),))
    both = [*STEPS, Segment(3, 0.2, 9)]
    assert last.epsilon == pytest.approx(epsilon_of(both, DELTA), rel=1e-12)


def test_the_round_that_would_pass_the_budget_is_refused_and_not_counted(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    number = next(number for number in range(1, 100) if rounds(number + 1) > 3.0)
    for message in range(number):
        reserve(ledger, f"m{message}")
    with pytest.raises(BudgetSpentError) as refused:
        reserve(ledger, "one more")
    assert number > 3
    assert spent(ledger) == rounds(number) <= 3.0
    # A smaller step still fits.
    assert reserve(ledger, "small", segments=(Segment(50.0, 0.01, 1),)).is_new
    assert str(refused.value) == (
        "site bern: its privacy budget is spent: with training of round 1 it would pass epsilon 3 "
        "at delta 1e-05 (limits.epsilon); nothing was done"
    )


def test_without_a_limit_everything_is_counted_and_nothing_refused(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path, Budget())
    last = reserve(ledger, "m1", segments=(Segment(3.0, 0.05, 6000),))
    assert last.epsilon == spent(ledger) > 3.0
    with pytest.raises(BudgetSpentError):
        reserve(ledger_at(tmp_path), "one more")


def test_a_message_that_comes_again_before_its_result_left_counts_once(tmp_path: Path) -> None:
    first = reserve(ledger_at(tmp_path), "m1")
    again = reserve(ledger_at(tmp_path), "m1")  # the worker died meanwhile
    assert (first.is_new, again.is_new) == (True, False)
    assert again.epsilon == first.epsilon
    assert (again.seq, again.attempt) == (first.seq, 1)


def test_a_message_that_comes_again_after_its_result_left_counts_again(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    first = reserve(ledger, "m1")
    ledger.release("m1")
    again = reserve(ledger, "m1")
    assert again.is_new
    assert again.attempt == 2
    assert again.epsilon == rounds(2) > first.epsilon


def test_a_message_that_asks_for_something_else_the_second_time_counts_again(
    tmp_path: Path,
) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1", segments=(Segment(50.0, 0.01, 1),))
    again = reserve(ledger, "m1")
    assert again.is_new
    assert reserve(ledger, "m1", cohort(*range(99))).is_new


def test_a_result_leaves_once_for_each_reservation(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    with pytest.raises(RefusedError, match="no privacy budget is reserved"):
        ledger.release("m1")
    reserve(ledger, "m1")
    reserve(ledger_at(tmp_path), "m1")  # a second worker that trains on the same message
    ledger.release("m1")
    with pytest.raises(RefusedError, match="no privacy budget is reserved"):
        ledger_at(tmp_path).release("m1")


def test_a_new_export_with_one_patient_more_starts_with_what_was_spent(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1", cohort(*range(100)))
    second = reserve(ledger, "m2", cohort(*range(1, 101)))
    assert second.epsilon == rounds(2)


def test_patients_of_whom_none_was_used_start_at_nothing(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1", cohort(*range(100)))
    apart = cohort(*range(100, 200))
    assert spent(ledger, apart) == 0.0
    assert reserve(ledger, "m2", apart).epsilon == rounds(1)
    # Whoever is in both has spent both.
    assert spent(ledger, cohort(99, 100)) == rounds(2)


def test_patients_under_another_salt_or_without_names_are_taken_to_be_the_same(
    tmp_path: Path,
) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1", cohort(*range(100)))
    for data in (cohort(*range(200, 300), salt=bytes(32)), cohort()):
        assert spent(ledger, data) == rounds(1)


def test_a_data_set_has_no_repr_of_its_patients_and_one_name_for_equal_ones() -> None:
    assert "patients" not in repr(COHORT)
    assert cohort(3, 1, 2, 2).name == cohort(1, 2, 3).name != cohort(1, 2).name
    other = DataSet.of("chur", hash_patients([1, 2], SALT), SALT)
    assert other.name != cohort(1, 2).name
    assert COHORT.num_patients == 100
    assert cohort().num_patients is None


def test_delta_must_be_below_one_over_the_patients(tmp_path: Path) -> None:
    for budget, delta in ((Budget(3.0, 0.01), DELTA), (BUDGET, 0.01)):
        with pytest.raises(ConfigError, match="below one over the 100 patients"):
            reserve(ledger_at(tmp_path, budget), "m1", delta=delta)
    assert spent(ledger_at(tmp_path)) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0.0, DELTA), (-1.0, DELTA), (math.nan, DELTA), (1.0, 1.0), (1.0, math.nan), (1.0, None)],
)
def test_a_budget_that_means_nothing_is_refused(epsilon: float, delta: float | None) -> None:
    with pytest.raises(ConfigError):
        Budget(epsilon, delta)


@pytest.mark.parametrize("wrong", [{"segments": ()}, {"delta": 1.0}, {"message_id": ""}])
def test_a_plan_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(PLAN, **wrong)  # type: ignore[arg-type]


def test_the_clock_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_at(tmp_path)
    reserve(ledger, "m1")
    monkeypatch.setattr(
        "fedward.client.privacy.book_store.now", lambda: "1970-01-01T00:00:00.000+00:00"
    )
    assert reserve(ledger, "m2").epsilon == rounds(2)
    monkeypatch.undo()
    assert reserve(ledger, "m3").epsilon == rounds(3)


def test_each_entry_is_named_in_the_sites_log(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "site.sqlite")
    ledger = PrivacyLedger(tmp_path / "site.sqlite", site="bern", budget=BUDGET, trail=trail)
    reserve(ledger, "m1")
    newest = trail.newest("privacy ledger")
    assert newest is not None
    assert newest["ledger_seq"] == 2  # the entry that opened it is the first
    trail.append("let out", why="privacy ledger")
    reserve(ledger, "m2")
    assert (trail.newest("privacy ledger") or {})["ledger_seq"] == 3


def test_sites_of_a_simulation_share_a_file_and_no_budget(tmp_path: Path) -> None:
    found = []
    for site in ("bern", "chur"):
        ledger = PrivacyLedger(tmp_path / "store.sqlite", site=site, budget=BUDGET, is_shared=True)
        data = DataSet.of(site, hash_patients(range(100), SALT), SALT)
        found.append(ledger.reserve(PLAN, data).epsilon)
    assert found == [rounds(1)] * 2
    assert list(tmp_path.glob("privacy-*")) == []


def test_a_ledger_in_memory_counts_too() -> None:
    ledger = ledger_at(None)
    reserve(ledger, "m1")
    assert reserve(ledger, "m2").epsilon == rounds(2)


def test_a_check_against_fifty_settings_takes_a_few_milliseconds(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path, Budget())
    for number in range(50):
        reserve(ledger, f"m{number}", segments=(Segment(2 + number / 1000, 0.01, 30),))
    times = []
    for _ in range(10):
        started = time.process_time()
        spent(ledger)
        times.append(time.process_time() - started)
    # With reading the ledger and verifying its whole chain.
    assert min(times) < 0.005
