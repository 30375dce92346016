"""A kit: the folder that `fedward provision` makes for the server, an operator or a site.

Of a kit only the roster is believed, because it is signed; `kit.json` says no more than whose kit
this is. The kits of sites and operators hold no secret.
"""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cryptography import x509

from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import load_key, public_text
from fedward.common.roster import Roster, read_roster

Role = Literal["server", "operator", "site"]
WARN_DAYS = 30
_FILES: dict[Role, tuple[str, ...]] = {
    "server": ("kit.json", "ca.crt", "roster.json", "server.crt", "server.key", "model.key"),
    "operator": ("kit.json", "ca.crt", "roster.json"),
    "site": ("kit.json", "ca.crt", "roster.json"),
}


@dataclass(frozen=True)
class Kit:
    """A kit that was read and checked."""

    folder: Path
    role: Role
    consortium: str
    name: str
    """Of the site or the operator; `server` for the server."""
    address: str
    """host:port of the server, as the roster says."""
    roster: Roster

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority, PEM."""
        return self.folder / "ca.crt"

    @property
    def roster_file(self) -> Path:
        """The signed roster."""
        return self.folder / "roster.json"

    @property
    def server_cert(self) -> Path:
        """The server's certificate, PEM (server only)."""
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        """The private key of the server's certificate, PEM, 0600 (server only)."""
        return self.folder / "server.key"

    @property
    def model_key_file(self) -> Path:
        """The private key that signs models and anchors, 0600 (server only)."""
        return self.folder / "model.key"

    @property
    def host(self) -> str:
        """The server's host, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.address.rpartition(":")[2])


def load_kit(folder: Path, role: Role) -> Kit:
    """Return the kit in `folder` once all that can be checked without a clock was checked.

    Args:
        folder: as `fedward provision` made it.
        role: whose kit is needed here.

    Raises:
        ConfigError: a file is missing, not readable, of another role, or a secret open to others.
        TrustError: the roster is not signed by the kit's authority, or the keys do not fit it.
    """
    missing = [name for name in _FILES[role] if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: no kit of {_one(role)}: {', '.join(missing)} not there; "
            "ask the coordinator, who makes kits with `fedward provision`"
        )
    name = _read_name(folder / "kit.json", role)
    try:
        roster = read_roster(_read(folder / "roster.json"), (folder / "ca.crt").read_bytes())
    except TrustError as error:
        raise TrustError(f"{folder}: {error}") from error
    kit = Kit(folder, role, roster.consortium, name, roster.address, roster)
    if role == "server":
        _check_server(kit)
    elif role == "site":
        roster.site(name)
    else:
        roster.operator(name)
    return kit


def certificate_expiry(path: Path) -> datetime.datetime:
    """Return when the certificate in `path` ends, in UTC.

    Raises:
        ConfigError: there is no certificate.
    """
    return _certificate(path).not_valid_after_utc


def expiry_warning(kit: Kit, now: datetime.datetime) -> str | None:
    """Return one line if something in the kit has ended or ends within 30 days, else None.

    Args:
        kit: any.
        now: with a time zone.
    """
    ends = {
        "the roster": datetime.datetime.fromisoformat(kit.roster.expires),
        "the authority's certificate": certificate_expiry(kit.ca_file),
    }
    if kit.role == "server":
        ends["the server's certificate"] = certificate_expiry(kit.server_cert)
    what, when = min(ends.items(), key=lambda entry: entry[1])
    days = (when - now).total_seconds() / 86_400
    if days > WARN_DAYS:
        return None
    said = "has expired" if days <= 0 else f"ends in {int(days)} days"
    todo = (
        "run `fedward provision ... --renew` and hand out the new kits"
        if kit.role == "server"
        else "ask the coordinator for a new kit"
    )
    return f"{kit.folder}: {what} {said} ({when:%Y-%m-%d %H:%M} UTC); {todo}"


def _read_name(path: Path, role: Role) -> str:
    """Return whose kit this is."""
    try:
        content: Any = json.loads(_read(path))
        version, found, name = content["version"], content["role"], content["name"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path}: not the kit.json that `fedward provision` wrote") from None
    if version != 1 or not isinstance(name, str):
        raise ConfigError(f"{path}: of another version of fedward; ask for a new kit")
    if found != role:
        raise ConfigError(f"{path}: not the kit of {_one(role)}; give the folder of that kit")
    return name


def _check_server(kit: Kit) -> None:
    """Raise unless the server's secrets are private and fit its certificate and the roster."""
    certificate, authority = _certificate(kit.server_cert), _certificate(kit.ca_file)
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # the library raises by the kind of key
        raise TrustError(
            f"{kit.server_cert}: not issued by the authority of this kit; provision it again"
        ) from error
    if load_key(kit.server_key).public_key() != cast("Any", certificate.public_key()):
        raise TrustError(f"{kit.server_key}: not the key of server.crt; provision the kit again")
    if public_text(load_key(kit.model_key_file)) != kit.roster.model_key:
        raise TrustError(f"{kit.model_key_file}: not the key that the roster names")


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{path}: no certificate in it; ask for the kit again") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read as text") from None


def _one(role: Role) -> str:
    return {"server": "the server", "operator": "an operator", "site": "a site"}[role]
