"""Makes a consortium's certificate authority, its signed roster, and a kit for each who takes part.

    KITS/ca             ca.key: stays with the coordinator, best on a machine without a network
    KITS/server         for the server: its secrets, made here
    KITS/operator-NAME  for an operator: nothing secret
    KITS/site-NAME      for a hospital: nothing secret; its private key was made there and stays

`ca/roster.json` is all that is remembered. A second call with an unchanged file changes nothing;
whatever does change raises the roster's serial, and sites accept no smaller one.
"""

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.config.consortium import (
    ConsortiumConfig,
    LoadedConsortium,
    MemberConfig,
    OperatorConfig,
)
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import (
    fingerprint,
    load_key,
    make_key,
    private_pem,
    public_text,
    write_private,
)
from fedward.common.registry import did_you_mean
from fedward.common.roster import (
    Roster,
    RosterOperator,
    RosterSite,
    differences,
    read_roster,
    sign_roster,
)
from fedward.deploy.certificates import (
    LOOPBACK,
    issue_for_server,
    make_authority,
    names_of,
    to_pem,
)

_PUBLIC_FILES = ("kit.json", "ca.crt", "roster.json")

Named = MemberConfig | OperatorConfig | RosterSite | RosterOperator


@dataclass(frozen=True)
class Provisioned:
    """What a call left behind."""

    roster: Roster
    kits: tuple[Path, ...]
    """Folders to hand out: the server's, the operators', the sites'."""
    changes: tuple[str, ...]
    """What differs from the roster before; empty: nothing, or there was none."""
    left_out: tuple[str, ...]
    """Who stands in the file but not in the roster, because their key was revoked."""


@dataclass(frozen=True, repr=False)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def provision(
    consortium: LoadedConsortium,
    out: Path,
    *,
    now: datetime.datetime,
    renew: bool = False,
    revoke: str | None = None,
) -> Provisioned:
    """Return the kits below `out`, made or brought up to date.

    Args:
        consortium: who takes part.
        out: a folder that is kept between calls; it holds the authority.
        now: with a time zone.
        renew: give the server a new key and certificate.
        revoke: a site or an operator whose key is to be trusted no more, ever.

    Raises:
        ConfigError: `out` misses what was made before, or nobody is called `revoke`.
        TrustError: what is in `out` does not fit together.
        StorageError: a file cannot be written.
    """
    config = consortium.config
    _make_folder(out, 0o755)
    authority = _authority(out, config.name, now)
    ca_pem = to_pem(authority.certificate)
    before = _last_roster(out, ca_pem, config)
    revoked = _revoked(before, config, revoke)
    if before is not None and not renew:
        _need_server_secrets(out / "server")
    expires = _server_secrets(out / "server", config, authority, now=now, renew=renew)
    model_key = _model_key(out / "server" / "model.key")
    wanted = _roster(config, before, revoked, model_key, (now, expires))
    if before is None or _unsigned(wanted, before) != before:
        text = sign_roster(wanted, authority.key)
        _write_public(out / "ca" / "roster.json", text.encode())
    text = (out / "ca" / "roster.json").read_text(encoding="utf-8")
    roster = read_roster(text, ca_pem)
    kits = _write_kits(out, roster, ca_pem, text)
    return Provisioned(
        roster,
        kits,
        tuple(differences(before, roster)) if before else (),
        tuple(_left_out(config, revoked)),
    )


def _authority(out: Path, consortium: str, now: datetime.datetime) -> _Authority:
    """Return the authority in `out`, made if nothing was provisioned there before."""
    key_file, certificate_file = out / "ca" / "ca.key", out / "ca" / "ca.crt"
    if not key_file.exists() and not (out / "ca" / "roster.json").exists():
        if (out / "server").exists():
            raise ConfigError(
                f"{out}: there are kits but not the folder ca; put it back. A new authority would "
                "be trusted by nobody who has a kit: for that, take an empty folder"
            )
        _make_folder(out / "ca", 0o700)
        certificate_file.unlink(missing_ok=True)
        write_private(key_file, private_pem(ec.generate_private_key(ec.SECP384R1())))
    key = load_key(key_file)
    if not certificate_file.exists():
        _write_public(certificate_file, to_pem(make_authority(consortium, key, now=now)))
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{certificate_file}: no certificate; put it back from a kit") from None
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{key_file}: not the key of ca.crt; put the right one back")
    return _Authority(certificate, key)


def _last_roster(out: Path, ca_pem: bytes, config: ConsortiumConfig) -> Roster | None:
    """Return what was signed last, or None at first; an error if it is of another consortium."""
    path = out / "ca" / "roster.json"
    if not path.exists():
        return None
    roster = read_roster(path.read_text(encoding="utf-8"), ca_pem)
    if roster.consortium != config.name:
        raise ConfigError(
            f"{out}: holds the kits of {roster.consortium!r}, the file is of {config.name!r}; "
            "give each consortium a folder of its own"
        )
    return roster


def _revoked(before: Roster | None, config: ConsortiumConfig, name: str | None) -> tuple[str, ...]:
    """Return the fingerprints of all keys that are trusted no more, in the order of revocation."""
    revoked = before.revoked if before else ()
    if name is None:
        return revoked
    in_file: list[Named] = [*config.sites, *config.operators]
    trusted: list[Named] = [*before.sites, *before.operators] if before else []
    # First what is trusted now: the file may already hold the new key of who lost the old one.
    owners = [one for one in trusted if one.name == name] or [
        one for one in in_file if one.name == name
    ]
    if not owners:
        hint = did_you_mean(name, {one.name for one in in_file})
        raise ConfigError(f"nobody is called {name!r}{hint}; nothing was revoked")
    if len(owners) > 1:
        raise ConfigError(f"a site and an operator are called {name!r}; rename one of them first")
    key = fingerprint(owners[0].public_key)
    return revoked if key in revoked else (*revoked, key)


def _server_secrets(
    folder: Path,
    config: ConsortiumConfig,
    authority: _Authority,
    *,
    now: datetime.datetime,
    renew: bool,
) -> datetime.datetime:
    """Return when the server's certificate ends; a new one is made where the old does not do."""
    key_file, certificate_file = folder / "server.key", folder / "server.crt"
    given = (config.server.host, *config.server.names, *LOOPBACK)
    names = list(dict.fromkeys(_plain(name) for name in given))
    found = None if renew else _usable(certificate_file, key_file, authority)
    if found is None or names_of(found) != set(names):
        _make_folder(folder, 0o700)
        key = ec.generate_private_key(ec.SECP384R1())
        found = issue_for_server(
            names,
            key.public_key(),
            (authority.certificate, authority.key),
            now=now,
            days=config.validity_days,
        )
        write_private(key_file, private_pem(key))
        _write_public(certificate_file, to_pem(found))
    return found.not_valid_after_utc


def _need_server_secrets(folder: Path) -> None:
    """Raise if a secret is gone: making another in silence would change what sites trust."""
    missing = [name for name in ("server.key", "model.key") if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"{folder}: {' and '.join(missing)} not there; put it back from the server, or let "
            "--renew make a new one (all sites must then approve the new roster)"
        )


def _usable(
    certificate_file: Path, key_file: Path, authority: _Authority
) -> x509.Certificate | None:
    """Return the server's certificate if it fits its key and the authority, else None."""
    try:
        found = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        found.verify_directly_issued_by(authority.certificate)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is replaced
        return None
    return found if found.public_key() == load_key(key_file).public_key() else None


def _model_key(path: Path) -> str:
    """Return the public text of the key that signs models; it is made once."""
    return public_text(load_key(path)) if path.exists() else make_key(path)


def _roster(
    config: ConsortiumConfig,
    before: Roster | None,
    revoked: tuple[str, ...],
    model_key: str,
    times: tuple[datetime.datetime, datetime.datetime],
) -> Roster:
    """Return the next roster; whether it differs from the one before is seen later.

    Args:
        config: who takes part.
        before: the roster that this one follows.
        revoked: fingerprints of keys whose owners are left out.
        model_key: public text.
        times: when it is issued and when it ends.
    """
    issued, expires = (one.isoformat(timespec="seconds") for one in times)
    return Roster(
        consortium=config.name,
        serial=before.serial + 1 if before else 1,
        issued=issued,
        expires=expires,
        address=config.server.address,
        model_key=model_key,
        sites=tuple(_site(one) for one in config.sites if not _is_revoked(one, revoked)),
        operators=tuple(
            RosterOperator(one.name, one.public_key)
            for one in config.operators
            if not _is_revoked(one, revoked)
        ),
        revoked=revoked,
    )


def _site(member: MemberConfig) -> RosterSite:
    return RosterSite(member.name, member.public_key, member.cohort_bound)


def _is_revoked(entry: MemberConfig | OperatorConfig, revoked: tuple[str, ...]) -> bool:
    return fingerprint(entry.public_key) in revoked


def _unsigned(roster: Roster, before: Roster) -> Roster:
    """Return `roster` with what differs in any case taken from `before`, to compare the two."""
    return dataclasses.replace(
        roster, serial=before.serial, issued=before.issued, authority=before.authority
    )


def _left_out(config: ConsortiumConfig, revoked: tuple[str, ...]) -> list[str]:
    sites = [f"site {one.name}" for one in config.sites if _is_revoked(one, revoked)]
    return sites + [f"operator {one.name}" for one in config.operators if _is_revoked(one, revoked)]


def _write_kits(out: Path, roster: Roster, ca_pem: bytes, roster_text: str) -> tuple[Path, ...]:
    """Return the kits' folders, brought up to date; kits of those who left are removed."""
    owners = [
        ("server", "server", "server"),
        *(("operator", one.name, f"operator-{one.name}") for one in roster.operators),
        *(("site", one.name, f"site-{one.name}") for one in roster.sites),
    ]
    for role, name, folder in owners:
        _make_folder(out / folder, 0o700 if role == "server" else 0o755)
        kit = {
            "version": 1,
            "role": role,
            "consortium": roster.consortium,
            "name": name,
            "address": roster.address,
        }
        contents = (json.dumps(kit, indent=1).encode() + b"\n", ca_pem, roster_text.encode())
        for file, content in zip(_PUBLIC_FILES, contents, strict=True):
            _write_public(out / folder / file, content)
    current = {folder for _, _, folder in owners}
    for stale in (*out.glob("operator-*"), *out.glob("site-*")):
        if stale.name not in current:
            _remove_kit(stale)
    return tuple(out / folder for _, _, folder in owners)


def _remove_kit(folder: Path) -> None:
    """Remove a kit of someone who left, but nothing that was not made here."""
    for name in _PUBLIC_FILES:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _make_folder(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror}") from error


def _write_public(path: Path, content: bytes) -> None:
    """Write a file that others may read, whole or not at all; leave it alone if it is the same."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists() and path.read_bytes() == content:
            return
        with part.open("xb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _plain(name: str) -> str:
    """Return a host as `names_of` gives it back."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()
