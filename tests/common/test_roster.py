import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import TrustError
from fedward.common.keys import fingerprint, public_text, sign
from fedward.common.roster import (
    Roster,
    RosterOperator,
    RosterSite,
    differences,
    read_roster,
    sign_roster,
)
from fedward.deploy.certificates import issue_for_server, make_authority, to_pem

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


CA = new_key()
AUTHORITY = make_authority("Heart North", CA, now=NOW)
CA_PEM = to_pem(AUTHORITY)
KEYS = {name: public_text(new_key()) for name in ("a", "b", "anna", "model", "stranger")}
ROSTER = Roster(
    consortium="Heart North",
    serial=3,
    issued="2025-06-01T00:00:00+00:00",
    expires="2026-06-01T00:00:00+00:00",
    address="localhost:8443",
    model_key=KEYS["model"],
    sites=(RosterSite("a", KEYS["a"], 500), RosterSite("b", KEYS["b"], 900)),
    operators=(RosterOperator("anna", KEYS["anna"]),),
)
SIGNED = sign_roster(ROSTER, CA)


def test_a_signed_roster_reads_back_as_it_was_and_names_its_authority() -> None:
    read = read_roster(SIGNED, CA_PEM)
    assert read == dataclasses.replace(ROSTER, authority=fingerprint(public_text(CA)))
    assert read.fingerprint == read_roster(json.dumps(json.loads(SIGNED)), CA_PEM).fingerprint


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(SIGNED)
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["roster"].update(address="evil.example:8443"),
        lambda one: one["roster"].update(serial=4),
        lambda one: one["roster"]["operators"].append({"name": "eve", "public_key": KEYS["b"]}),
        lambda one: one["roster"]["sites"].reverse(),
        lambda one: one["roster"]["sites"][0].update(cohort_bound=10**6),
        lambda one: one["roster"].update(model_key=KEYS["stranger"]),
        lambda one: one["roster"].update(revoked=["SHA256:x"]),
        lambda one: one["roster"].update(authority=""),
    ],
)
def test_no_letter_of_a_signed_roster_can_be_changed(
    change: Callable[[dict[str, Any]], object],
) -> None:
    with pytest.raises(TrustError, match="signature does not fit"):
        read_roster(changed(change), CA_PEM)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{}",
        "[" * 100_000,
        changed(lambda one: one["roster"].pop("revoked")),
        changed(lambda one: one["roster"].update(extra="unsigned")),
        changed(lambda one: one.update(extra="unsigned")),
        changed(lambda one: one["roster"].update(serial="3")),
        changed(lambda one: one["roster"].update(serial=True)),
        changed(lambda one: one["roster"].update(sites={})),
        changed(lambda one: one["roster"]["sites"].append(3)),
        changed(lambda one: one["roster"].update(revoked=[3])),
        changed(lambda one: one.update(signature=3)),
    ],
)
def test_what_is_no_roster_is_malformed(text: str) -> None:
    with pytest.raises(TrustError, match="malformed"):
        read_roster(text, CA_PEM)


def test_a_roster_of_another_authority_is_refused_even_under_the_same_name() -> None:
    other = to_pem(make_authority("Heart North", new_key(), now=NOW))
    with pytest.raises(TrustError, match="signature does not fit"):
        read_roster(SIGNED, other)


def test_a_certificate_that_is_no_authority_signs_no_roster() -> None:
    key = new_key()
    leaf = issue_for_server(["localhost"], key.public_key(), (AUTHORITY, CA), now=NOW, days=9)
    for pem in (to_pem(leaf), b"", CA_PEM[:200]):
        with pytest.raises(TrustError, match=r"ca\.crt: not the certificate"):
            read_roster(sign_roster(ROSTER, key), pem)


def test_a_certificate_signed_by_itself_that_may_not_sign_others_is_no_authority() -> None:
    key = new_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(AUTHORITY.subject)
        .issuer_name(AUTHORITY.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )
    with pytest.raises(TrustError, match="not that of an authority"):
        read_roster(sign_roster(ROSTER, key), to_pem(certificate))


def test_a_roster_that_names_another_authority_than_its_signer_is_refused() -> None:
    other = dataclasses.replace(ROSTER, authority=fingerprint(KEYS["stranger"]))
    text = json.dumps(
        {"roster": dataclasses.asdict(other), "signature": sign(CA, other.canonical())}
    )
    with pytest.raises(TrustError, match="names another authority"):
        read_roster(text, CA_PEM)


@pytest.mark.parametrize(
    "roster",
    [
        dataclasses.replace(ROSTER, sites=(*ROSTER.sites, RosterSite("a", KEYS["stranger"], 1))),
        dataclasses.replace(ROSTER, sites=(*ROSTER.sites, RosterSite("c", KEYS["a"], 1))),
        dataclasses.replace(ROSTER, operators=(RosterOperator("anna", KEYS["a"]),)),
        dataclasses.replace(ROSTER, operators=(RosterOperator("anna", "ssh-rsa x"),)),
        dataclasses.replace(ROSTER, expires="2026-06-01"),
        dataclasses.replace(ROSTER, expires="soon"),
        dataclasses.replace(ROSTER, serial=0),
        dataclasses.replace(ROSTER, address="localhost"),
    ],
)
def test_a_signed_roster_that_makes_no_sense_is_refused(roster: Roster) -> None:
    with pytest.raises(TrustError):
        read_roster(sign_roster(roster, CA), CA_PEM)


def test_a_site_is_known_by_its_key_and_not_after_that_was_revoked() -> None:
    assert ROSTER.site_of(f"{KEYS['b']} comment") == "b"
    assert ROSTER.site_of(KEYS["stranger"]) is None
    assert ROSTER.site_of(KEYS["anna"]) is None
    assert ROSTER.site_of("no key") is None
    revoked = dataclasses.replace(ROSTER, revoked=(fingerprint(KEYS["b"]),))
    assert revoked.site_of(KEYS["b"]) is None
    with pytest.raises(TrustError, match="revoked"):
        revoked.site("b")


def test_an_operator_is_known_by_name_and_not_after_their_key_was_revoked() -> None:
    assert ROSTER.operator("anna").public_key == KEYS["anna"]
    with pytest.raises(TrustError, match="knows no operator 'eve'"):
        ROSTER.operator("eve")
    revoked = dataclasses.replace(ROSTER, revoked=(fingerprint(KEYS["anna"]),))
    with pytest.raises(TrustError, match="revoked"):
        revoked.operator("anna")


def test_a_roster_ends_at_its_date() -> None:
    assert not ROSTER.is_expired(datetime(2026, 5, 31, 23, 59, tzinfo=UTC))
    assert ROSTER.is_expired(datetime(2026, 6, 1, tzinfo=UTC))


def test_the_fingerprint_tells_rosters_and_authorities_apart() -> None:
    prints = {
        read_roster(SIGNED, CA_PEM).fingerprint,
        read_roster(sign_roster(dataclasses.replace(ROSTER, serial=4), CA), CA_PEM).fingerprint,
    }
    other = new_key()
    pem = to_pem(make_authority("Heart North", other, now=NOW))
    prints.add(read_roster(sign_roster(ROSTER, other), pem).fingerprint)
    assert len(prints) == 3
    assert all(one.startswith("SHA256:") for one in prints)


def test_every_difference_is_told_to_the_person_who_decides() -> None:
    new = dataclasses.replace(
        ROSTER,
        serial=4,
        address="new.example:443",
        expires="2027-06-01T00:00:00+00:00",
        model_key=KEYS["stranger"],
        sites=(RosterSite("a", KEYS["stranger"], 600), RosterSite("c", KEYS["b"], 1)),
        operators=(),
        revoked=(fingerprint(KEYS["a"]),),
    )
    lines = "\n".join(differences(ROSTER, new))
    for said in (
        "serial: 3 -> 4",
        "server: localhost:8443 -> new.example:443",
        "expires: 2026",
        f"key that signs models: {fingerprint(KEYS['model'])} ->",
        "site left: b",
        f"site joined: c, key {fingerprint(KEYS['b'])}",
        f"site a: key {fingerprint(KEYS['a'])} -> {fingerprint(KEYS['stranger'])}",
        "site a: at most 500 -> 600 patients",
        "operator left: anna",
        f"key revoked: {fingerprint(KEYS['a'])}",
    ):
        assert said in lines
    assert f"key no longer revoked: {fingerprint(KEYS['a'])}" in differences(new, ROSTER)
    assert differences(ROSTER, ROSTER) == []
