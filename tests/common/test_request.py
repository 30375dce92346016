import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import fingerprint, public_text, sign
from fedward.common.request import MAX_BYTES, RunRequest, read_request, sign_request
from fedward.common.roster import Roster, RosterOperator

ANNA, EVE = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))


def roster(*, revoked: tuple[str, ...] = ()) -> Roster:
    return Roster(
        consortium="Heart North",
        serial=1,
        issued="2025-06-01T00:00:00+00:00",
        expires="2026-06-01T00:00:00+00:00",
        address="localhost:8443",
        model_key=public_text(EVE),
        sites=(),
        operators=(RosterOperator("anna", public_text(ANNA)),),
        revoked=revoked,
    )


REQUEST = RunRequest(
    operator="anna",
    config={"name": "heart", "rounds": 20, "local": {"learning_rate": 1e-3}, "shared": ["*"]},
    schema={"name": "Herz-Ängström", "columns": {"age": {"low": 0.0, "high": 120}}},
    submitted="2025-06-02T10:00:00+00:00",
    consortium="Heart North",
)
SIGNED = sign_request(REQUEST, ANNA)


def test_a_request_reads_back_as_its_operator_signed_it() -> None:
    read = read_request(SIGNED, roster())
    assert read == REQUEST
    assert read.hash == REQUEST.hash
    assert len(read.hash) == 64


def test_the_hash_does_not_depend_on_order_or_on_tuples() -> None:
    config = {"shared": ("*",), **{key: REQUEST.config[key] for key in ("local", "rounds", "name")}}
    same = RunRequest("anna", config, REQUEST.schema, REQUEST.submitted, "Heart North")
    assert same.hash == REQUEST.hash
    later = RunRequest("anna", REQUEST.config, REQUEST.schema, "2025-06-02T10:00:01+00:00")
    assert later.hash != REQUEST.hash


def test_a_request_of_another_consortium_is_of_no_use_here() -> None:
    other = dataclasses.replace(REQUEST, consortium="heart")
    with pytest.raises(TrustError, match="made for another consortium than Heart North"):
        read_request(sign_request(other, ANNA), roster())


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(SIGNED)
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["request"]["config"].update(rounds=21),
        lambda one: one["request"]["config"].update(extra=1),
        lambda one: one["request"]["schema"].clear(),
        lambda one: one["request"].update(submitted="2025-06-03T10:00:00+00:00"),
        lambda one: one.update(signature=sign(EVE, REQUEST.canonical())),
    ],
)
def test_the_coordinator_cannot_change_a_letter(
    change: Callable[[dict[str, Any]], object],
) -> None:
    with pytest.raises(TrustError, match="run request of 'anna': the signature does not fit"):
        read_request(changed(change), roster())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"request": {}, "signature": ""}',
        changed(lambda one: one["request"].update(extra=1)),
        changed(lambda one: one["request"].pop("schema")),
        changed(lambda one: one.update(note="unsigned")),
        changed(lambda one: one["request"].update(config="rounds: 1")),
        changed(lambda one: one["request"].update(kind="fedward roster 1")),
        changed(lambda one: one["request"]["config"].update(rate=float("nan"))),
        changed(lambda one: one.update(signature=None)),
    ],
)
def test_what_is_no_request_is_malformed(text: str) -> None:
    with pytest.raises(TrustError, match="malformed"):
        read_request(text, roster())


def test_a_stranger_and_a_revoked_operator_are_refused() -> None:
    eve = RunRequest("eve", REQUEST.config, REQUEST.schema, REQUEST.submitted, "Heart North")
    with pytest.raises(TrustError, match="knows no operator 'eve'"):
        read_request(sign_request(eve, EVE), roster())
    with pytest.raises(TrustError, match="revoked"):
        read_request(SIGNED, roster(revoked=(fingerprint(public_text(ANNA)),)))


def test_a_request_has_a_largest_size_on_both_sides() -> None:
    big = RunRequest("anna", {"text": "x" * MAX_BYTES}, {}, REQUEST.submitted)
    with pytest.raises(ConfigError, match="at most 256000 can travel"):
        sign_request(big, ANNA)
    with pytest.raises(TrustError, match="larger than"):
        read_request(" " * (MAX_BYTES + 1), roster())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_json_cannot_say_is_refused_before_it_is_signed(value: object) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        sign_request(RunRequest("anna", {"a": value}, {}, REQUEST.submitted), ANNA)
