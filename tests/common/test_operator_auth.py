"""An operator's signature under one call."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from fedward.common import operator_auth
from fedward.common.errors import TrustError
from fedward.common.keys import fingerprint, load_key, make_key
from fedward.common.operator_auth import NONCE, OPERATOR, SIGNATURE, TIME, Doorkeeper, Signer
from fedward.common.roster import Roster, RosterOperator

PATH, BODY = "/v1/control/stop-run", b"run 7"


class Clock:
    """A clock that tests can set."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.shift_s)


@dataclasses.dataclass
class Door:
    """A doorkeeper, the roster that it goes by, and an operator."""

    roster: Roster
    signer: Signer
    clock: Clock
    keeper: Doorkeeper

    def admits(self, headers: dict[str, str], path: str = PATH, body: bytes = BODY) -> str:
        return self.keeper.admit(self.keeper.claim(headers, self.roster), path, body, self.roster)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    public = make_key(tmp_path / "anna.key")
    roster = Roster(
        consortium="Test",
        serial=3,
        issued="2026-01-01T00:00:00+00:00",
        expires="2027-01-01T00:00:00+00:00",
        address="localhost:8443",
        model_key=public,
        sites=(),
        operators=(RosterOperator("anna", public),),
    )
    clock = Clock()
    signer = Signer("anna", "Test", load_key(tmp_path / "anna.key"))
    return Door(roster, signer, clock, Doorkeeper(clock))


def test_who_signed_is_known(door: Door) -> None:
    assert door.admits(door.signer.headers(PATH, BODY)) == "anna"


def test_a_call_counts_once(door: Door) -> None:
    headers = door.signer.headers(PATH, BODY)
    door.admits(headers)
    with pytest.raises(TrustError, match="sent before"):
        door.admits(headers)
    assert door.admits(door.signer.headers(PATH, BODY)) == "anna"


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/control/start-run", BODY), (PATH, b"run 8"), (PATH, b"")]
)
def test_a_signature_is_of_no_use_for_another_call(door: Door, path: str, body: bytes) -> None:
    with pytest.raises(TrustError, match="changed on its way"):
        door.admits(door.signer.headers(PATH, BODY), path, body)


def test_a_signature_is_of_no_use_in_another_consortium(door: Door) -> None:
    elsewhere = dataclasses.replace(door.signer, consortium="Other")
    with pytest.raises(TrustError, match="not signed"):
        door.admits(elsewhere.headers(PATH, BODY))


@pytest.mark.parametrize("name", [OPERATOR, TIME, NONCE])
def test_no_header_can_be_taken_from_another_call(door: Door, name: str) -> None:
    eve = dataclasses.replace(door.signer, operator="eve")
    headers, other = door.signer.headers(PATH, BODY), eve.headers(PATH, BODY)
    with pytest.raises(TrustError, match="not signed"):
        door.admits({**headers, name: other[name]})


def test_strangers_revoked_operators_and_wrong_keys_hear_the_same(
    door: Door, tmp_path: Path
) -> None:
    make_key(tmp_path / "other.key")
    wrong = dataclasses.replace(door.signer, key=load_key(tmp_path / "other.key"))
    with pytest.raises(TrustError) as of_wrong:
        door.admits(wrong.headers(PATH, BODY))
    revoked = fingerprint(door.roster.operators[0].public_key)
    door.roster = dataclasses.replace(door.roster, revoked=(revoked,))
    with pytest.raises(TrustError) as of_revoked:
        door.admits(door.signer.headers(PATH, BODY))
    nobody = dataclasses.replace(door.signer, operator="nobody")
    with pytest.raises(TrustError) as of_nobody:
        door.admits(nobody.headers(PATH, BODY))
    assert str(of_wrong.value) == str(of_revoked.value)
    assert str(of_nobody.value).replace("nobody", "anna") == str(of_wrong.value)


@pytest.mark.parametrize("shift_s", [310.0, -310.0])
def test_a_call_of_another_hour_is_refused_and_the_text_says_by_how_much(
    door: Door, shift_s: float
) -> None:
    headers = door.signer.headers(PATH, BODY)
    door.clock.shift_s = shift_s
    with pytest.raises(TrustError, match=r"31\d s (before|after) .* set the clock"):
        door.admits(headers)


def test_what_was_signed_before_the_start_is_refused_because_it_may_have_been_used(
    door: Door,
) -> None:
    headers = door.signer.headers(PATH, BODY)
    door.admits(headers)
    door.keeper = Doorkeeper(door.clock)
    with pytest.raises(TrustError, match="before the coordinator's start"):
        door.admits(headers)


def test_a_nonce_is_remembered_for_as_long_as_its_time_is_accepted(door: Door) -> None:
    door.keeper = Doorkeeper(door.clock)
    door.clock.shift_s = -290  # the operator's clock is that much ahead
    door.keeper = Doorkeeper(door.clock)
    headers = door.signer.headers(PATH, BODY)
    door.admits(headers)
    door.clock.shift_s = 290
    with pytest.raises(TrustError, match="sent before"):
        door.admits(headers)


def test_the_memory_for_nonces_is_bounded_and_emptied(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_auth, "MAX_NONCES", 2)
    for _ in range(2):
        door.admits(door.signer.headers(PATH, BODY))
    with pytest.raises(TrustError, match="too many"):
        door.admits(door.signer.headers(PATH, BODY))
    door.keeper._used = type(door.keeper._used)(
        (key, at - datetime.timedelta(seconds=700)) for key, at in door.keeper._used.items()
    )
    assert door.admits(door.signer.headers(PATH, BODY)) == "anna"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (OPERATOR, "anna\nbert"),
        (TIME, "yesterday"),
        (TIME, "2026-11-21T10:00:00"),
        (NONCE, "1"),
        (SIGNATURE, "%" * 100),
        (SIGNATURE, "A" * 300),
        (SIGNATURE, ""),
    ],
)
def test_malformed_headers_are_refused_before_the_body_is_read(
    door: Door, name: str, value: str
) -> None:
    headers = {**door.signer.headers(PATH, BODY), name: value}
    with pytest.raises(TrustError, match="malformed"):
        door.keeper.claim(headers, door.roster)


def test_an_unsigned_call_is_told_what_is_missing(door: Door) -> None:
    with pytest.raises(TrustError, match="--key"):
        door.keeper.claim({}, door.roster)


def test_the_key_is_in_no_text(door: Door) -> None:
    assert "key" not in repr(door.signer)
