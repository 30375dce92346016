"""A run starts, and a roster is trusted, only when a person at the site said so."""

import dataclasses
from pathlib import Path

import pytest

from fedward.client.approvals import Approvals, RosterPins
from fedward.common.errors import ConfigError, RefusedError, TrustError
from fedward.common.keys import make_key
from fedward.common.request import RunRequest
from fedward.common.roster import Roster, RosterOperator, RosterSite

REQUEST = RunRequest("anna", {"name": "stroke"}, {"version": 1}, "2026-11-21T12:00:00+00:00")


def test_a_run_waits_until_it_is_approved_and_the_wait_is_written_down(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "site.sqlite", "ask")
    with pytest.raises(RefusedError, match=f"fedward approve run {REQUEST.hash}"):
        approvals.decide(REQUEST)
    (waiting,) = approvals.listing()
    assert (waiting.operator, waiting.name, waiting.state) == ("anna", "stroke", "waiting")
    assert waiting.asked.endswith("+00:00")
    Approvals(tmp_path / "site.sqlite").approve(REQUEST.hash[:8])
    approvals.decide(REQUEST)


def test_an_approval_is_for_exactly_one_request() -> None:
    approvals = Approvals(None)
    approvals.approve(REQUEST.hash)
    approvals.decide(REQUEST)
    other = dataclasses.replace(REQUEST, config={"name": "stroke", "rounds": 999})
    with pytest.raises(RefusedError, match="waits"):
        approvals.decide(other)


def test_a_withdrawn_run_does_not_go_on_even_where_any_run_may_start() -> None:
    approvals = Approvals(None, "any")
    approvals.decide(REQUEST)
    approvals.withdraw(REQUEST.hash)
    with pytest.raises(RefusedError, match="withdrawn"):
        approvals.decide(REQUEST)


def test_with_a_list_a_run_that_is_not_on_it_is_refused_outright() -> None:
    approvals = Approvals(None, "listed")
    with pytest.raises(RefusedError, match="not on the list"):
        approvals.decide(REQUEST)
    approvals.approve(REQUEST.hash)
    approvals.decide(REQUEST)


def test_a_run_can_be_approved_before_anyone_asks_and_the_asking_is_still_recorded() -> None:
    approvals = Approvals(None, "listed")
    assert approvals.approve(REQUEST.hash).asked == ""
    assert approvals.request_text(REQUEST.hash) is None
    approvals.decide(REQUEST)
    (entry,) = approvals.listing()
    assert (entry.operator, entry.state) == ("anna", "approved")
    assert entry.asked
    assert '"stroke"' in (approvals.request_text(REQUEST.hash) or "")


def test_any_run_is_recorded_too() -> None:
    approvals = Approvals(None, "any")
    approvals.decide(REQUEST)
    assert [entry.hash for entry in approvals.listing()] == [REQUEST.hash]


@pytest.mark.parametrize("digits", ["", "abc", "zzzzzzzz", "0123456789"])
def test_digits_that_name_no_run_are_refused(digits: str) -> None:
    approvals = Approvals(None, "any")
    approvals.decide(REQUEST)
    with pytest.raises(ConfigError, match="fedward approve list"):
        approvals.approve(digits)


def test_a_name_cannot_write_control_characters_to_a_terminal() -> None:
    approvals = Approvals(None, "any")
    approvals.decide(dataclasses.replace(REQUEST, config={"name": "a\x1b[2Jb\n"}))
    assert approvals.listing()[0].name == "a[2Jb"


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    keys = [make_key(tmp_path / f"{name}.key") for name in ("model", "bern", "anna")]
    return Roster(
        consortium="stroke",
        serial=3,
        issued="2026-11-21T00:00:00+00:00",
        expires="2027-11-21T00:00:00+00:00",
        address="fedward.example:9092",
        model_key=keys[0],
        sites=(RosterSite("bern", keys[1], 500),),
        operators=(RosterOperator("anna", keys[2]),),
        revoked=("SHA256:x",),
    )


def test_no_roster_is_trusted_before_a_person_confirmed_one(roster: Roster) -> None:
    pins = RosterPins(None)
    with pytest.raises(RefusedError, match="fedward approve roster"):
        pins.check_roster(roster)
    pins.pin_roster(roster)
    pins.check_roster(roster)


def test_a_pinned_roster_comes_back_whole(roster: Roster, tmp_path: Path) -> None:
    RosterPins(tmp_path / "site.sqlite").pin_roster(roster)
    assert RosterPins(tmp_path / "site.sqlite").pinned() == roster


def test_a_changed_roster_waits_for_a_person(roster: Roster) -> None:
    pins = RosterPins(None)
    pins.pin_roster(roster)
    newer = dataclasses.replace(roster, serial=4, operators=())
    with pytest.raises(RefusedError, match="serial 3 to 4"):
        pins.check_roster(newer)
    pins.pin_roster(newer)
    pins.check_roster(newer)


def test_an_old_roster_does_not_come_back(roster: Roster) -> None:
    pins = RosterPins(None)
    pins.pin_roster(roster)
    older = dataclasses.replace(roster, serial=2, revoked=())
    for trust in (pins.check_roster, pins.pin_roster):
        with pytest.raises(TrustError, match="older"):
            trust(older)


def test_two_rosters_under_one_number_are_not_both_trusted(roster: Roster) -> None:
    pins = RosterPins(None)
    pins.pin_roster(roster)
    with pytest.raises(TrustError, match="same number"):
        pins.check_roster(dataclasses.replace(roster, address="elsewhere:9092"))


def test_another_consortium_cannot_take_the_place_of_the_confirmed_one(roster: Roster) -> None:
    pins = RosterPins(None)
    pins.pin_roster(roster)
    with pytest.raises(TrustError, match="another consortium"):
        pins.pin_roster(dataclasses.replace(roster, consortium="rivals", serial=9))
