"""The roster: who belongs to a consortium, under which key, signed by its authority.

A site trusts what is in the roster and nothing that the coordinator says beside it: which operators
may ask for a run, which key signs models, where the server is, and which authority signed (so that
two rosters with one fingerprint also agree on whom to trust for the connection).
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import TrustError
from fedward.common.keys import fingerprint, public_text, read_public, sign, verify

MAX_BYTES = 1 << 20
_KIND = "fedward roster 1"

T = TypeVar("T")


@dataclass(frozen=True)
class RosterSite:
    """A hospital of the consortium."""

    name: str
    public_key: str
    cohort_bound: int
    """Most patients that the site may claim to train on in a round."""


@dataclass(frozen=True)
class RosterOperator:
    """A person or service that may ask for runs."""

    name: str
    public_key: str


Member = TypeVar("Member", RosterSite, RosterOperator)


@dataclass(frozen=True)
class Roster:
    """Who belongs to the consortium."""

    consortium: str
    serial: int
    """Counts the changes; a site never goes back to a smaller one."""
    issued: str
    """ISO 8601 with a time zone."""
    expires: str
    """ISO 8601 with a time zone: the end of the server's certificate."""
    address: str
    """host:port of the server."""
    model_key: str
    """Public text of the key that signs models and anchors."""
    sites: tuple[RosterSite, ...]
    operators: tuple[RosterOperator, ...]
    revoked: tuple[str, ...] = ()
    """Fingerprints of keys that are trusted no more."""
    authority: str = ""
    """Fingerprint of the authority's public key; `sign_roster` fills it in."""

    def canonical(self) -> bytes:
        """Return the bytes that are signed: equal for equal rosters, however they were written."""
        content = {"kind": _KIND, **dataclasses.asdict(self)}
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")

    @property
    def fingerprint(self) -> str:
        """What people compare over the phone: "SHA256:..." of the canonical bytes."""
        return fingerprint(self.canonical())

    def site_of(self, public_key: str) -> str | None:
        """Return the name of the site with this key, or None: unknown, malformed or revoked."""
        try:
            wanted = fingerprint(public_key)
        except TrustError:
            return None
        if wanted in self.revoked:
            return None
        return next((one.name for one in self.sites if fingerprint(one.public_key) == wanted), None)

    def site(self, name: str) -> RosterSite:
        """Return the site of this name.

        Raises:
            TrustError: there is none, or its key was revoked.
        """
        return self._find(self.sites, name, "site")

    def operator(self, name: str) -> RosterOperator:
        """Return the operator of this name.

        Raises:
            TrustError: there is none, or their key was revoked.
        """
        return self._find(self.operators, name, "operator")

    def is_expired(self, now: datetime.datetime) -> bool:
        """Return whether the roster's time is over at `now` (with a time zone)."""
        return datetime.datetime.fromisoformat(self.expires) <= now

    def _find(self, entries: Iterable[Member], name: str, kind: str) -> Member:
        entry = next((one for one in entries if one.name == name), None)
        if entry is None:
            raise TrustError(
                f"roster {self.serial} of {self.consortium} knows no {kind} {name!r}; "
                "ask the coordinator for the current kit"
            )
        if fingerprint(entry.public_key) in self.revoked:
            raise TrustError(f"roster {self.serial}: the key of the {kind} {name!r} was revoked")
        return entry


def sign_roster(roster: Roster, ca_key: ec.EllipticCurvePrivateKey) -> str:
    """Return the roster, naming the authority whose key this is, as signed JSON text."""
    signed = dataclasses.replace(roster, authority=fingerprint(public_text(ca_key)))
    content = {
        "roster": dataclasses.asdict(signed),
        "signature": sign(ca_key, signed.canonical()),
    }
    return json.dumps(content, indent=1) + "\n"


def read_roster(text: str, ca_certificate_pem: bytes) -> Roster:
    """Return the roster in `text` if the authority of the certificate signed it.

    Whether it is still valid at this hour is `Roster.is_expired`.

    Raises:
        TrustError: a bad signature, another authority, or something malformed.
    """
    authority = authority_key(ca_certificate_pem)
    if len(text) > MAX_BYTES:
        raise TrustError(f"roster: larger than {MAX_BYTES} bytes; a roster is smaller")
    try:
        roster, signature = _parse(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TrustError("roster: malformed; take roster.json from the kit again") from None
    try:
        verify(authority, roster.canonical(), signature)
    except TrustError as error:
        raise TrustError(f"roster {roster.serial}: {error}") from None
    if roster.authority != fingerprint(authority):
        raise TrustError(f"roster {roster.serial}: names another authority than it is signed by")
    _check(roster)
    return roster


def authority_key(ca_certificate_pem: bytes) -> str:
    """Return the public text of a certificate authority's key.

    Raises:
        TrustError: no certificate, not one of an authority, or not signed by itself.
    """
    try:
        certificate = x509.load_pem_x509_certificate(ca_certificate_pem)
        certificate.verify_directly_issued_by(certificate)
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        text = public_text(cast("ec.EllipticCurvePublicKey", certificate.public_key()))
        read_public(text)
    except Exception as error:
        raise TrustError(
            "ca.crt: not the certificate of a consortium's authority (EC P-384, signed by itself); "
            "take it from the kit again"
        ) from error
    if not limits.ca:
        raise TrustError("ca.crt: a certificate, but not that of an authority")
    return text


def differences(old: Roster, new: Roster) -> list[str]:
    """Return what changed, a line each, for the person who decides whether to accept it."""
    lines = [
        f"{what}: {before} -> {after}"
        for what, before, after in (
            ("consortium", old.consortium, new.consortium),
            ("serial", old.serial, new.serial),
            ("server", old.address, new.address),
            ("expires", old.expires, new.expires),
            ("authority", old.authority, new.authority),
            ("key that signs models", fingerprint(old.model_key), fingerprint(new.model_key)),
        )
        if before != after
    ]
    lines += _changes("site", old.sites, new.sites)
    lines += _changes("operator", old.operators, new.operators)
    lines += [f"key revoked: {one}" for one in new.revoked if one not in old.revoked]
    lines += [f"key no longer revoked: {one}" for one in old.revoked if one not in new.revoked]
    return lines


def _changes(kind: str, old: Iterable[Member], new: Iterable[Member]) -> list[str]:
    before, after = {one.name: one for one in old}, {one.name: one for one in new}
    lines = [f"{kind} left: {name}" for name in before if name not in after]
    for name, entry in after.items():
        known = before.get(name)
        if known is None:
            lines.append(f"{kind} joined: {name}, key {fingerprint(entry.public_key)}")
            continue
        if known.public_key != entry.public_key:
            was, now = fingerprint(known.public_key), fingerprint(entry.public_key)
            lines.append(f"{kind} {name}: key {was} -> {now}")
        if isinstance(known, RosterSite) and isinstance(entry, RosterSite):
            was_bound, bound = known.cohort_bound, entry.cohort_bound
            if was_bound != bound:
                lines.append(f"{kind} {name}: at most {was_bound} -> {bound} patients")
    return lines


def _parse(content: Mapping[str, Any]) -> tuple[Roster, str]:
    """Return roster and signature; a TypeError for any other key or type."""
    fields = dict(content["roster"])
    if set(content) != {"roster", "signature"}:
        raise TypeError
    roster = _build(
        Roster,
        {
            **fields,
            "sites": _each(fields["sites"], lambda one: _build(RosterSite, one)),
            "operators": _each(fields["operators"], lambda one: _build(RosterOperator, one)),
            "revoked": _each(fields["revoked"], _as_text),
        },
    )
    return roster, _as_text(content["signature"])


def _build(kind: type[T], fields: Mapping[str, Any]) -> T:
    entry = kind(**fields)
    for name, value in fields.items():
        expected = {"serial": int, "cohort_bound": int}.get(name, str)
        if type(value) is not expected and not isinstance(value, tuple):
            raise TypeError
    return entry


def _each(values: Any, build: Callable[[Any], T]) -> tuple[T, ...]:
    if not isinstance(values, list):
        raise TypeError
    return tuple(build(one) for one in values)


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _check(roster: Roster) -> None:
    """Raise a TrustError for a signed roster that still cannot be used."""
    entries: tuple[RosterSite | RosterOperator, ...] = (*roster.sites, *roster.operators)
    for entry in entries:
        read_public(entry.public_key)
    read_public(roster.model_key)
    names = [[one.name for one in roster.sites], [one.name for one in roster.operators]]
    keys = [fingerprint(one.public_key) for one in entries]
    if any(len(set(some)) < len(some) for some in (*names, keys)):
        raise TrustError(f"roster {roster.serial}: a name or a key stands there twice")
    try:
        times = [datetime.datetime.fromisoformat(one) for one in (roster.issued, roster.expires)]
    except ValueError:
        times = []
    if len(times) < 2 or any(one.tzinfo is None for one in times) or roster.serial < 1:
        raise TrustError(f"roster {roster.serial}: its dates or its serial make no sense")
    host, _, port = roster.address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise TrustError(f"roster {roster.serial}: the server's address is not host:port")
