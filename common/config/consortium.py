"""The keys of `consortium.yaml`: who belongs, from which `fedward provision` makes the kits."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedward.common.config.read import Origin, parse_key, read_config
from fedward.common.config.section import Section, SiteName, Text
from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import fingerprint, public_text, read_public

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_LARGEST_PUBLIC_FILE = 4096

ConsortiumName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
        examples=["Heart North (letters, digits, blanks, . - and _)"],
    ),
]


class ServerConfig(Section):
    """Where the sites find the coordinator."""

    address: Text
    """host:port that every site can reach."""
    names: tuple[Text, ...] = Field(default=(), strict=False)
    """Further host names or addresses for the certificate."""

    @field_validator("address")
    @classmethod
    def _address_is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        is_port = port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16
        if not is_port or not is_host(host.removeprefix("[").removesuffix("]")):
            raise ValueError("given text, expected host:port such as federation.example.org:8443")
        return value

    @field_validator("names")
    @classmethod
    def _names_are_hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not all(is_host(one) for one in values):
            raise ValueError("an entry is neither a host name nor an IP address")
        return values

    @property
    def host(self) -> str:
        """The host of `address`, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")


class OperatorConfig(Section):
    """A person or service that may ask for runs."""

    name: SiteName
    """Names the operator's kit."""
    public_key: Text
    """The line that `fedward enroll` printed, or the path of a .pub file."""


class MemberConfig(Section):
    """A hospital."""

    name: SiteName
    """Names the site's kit; the same as `site` in its site.yaml."""
    public_key: Text
    """The line that `fedward enroll` printed, or the path of a .pub file."""
    cohort_bound: int = Field(ge=1)
    """Most patients that the site may claim to train on in a round."""


class ConsortiumConfig(Section):
    """One consortium: the whole of `consortium.yaml`."""

    version: Literal[1]
    """Of this format."""
    name: ConsortiumName
    """Of the consortium."""
    server: ServerConfig
    """Where the sites find the coordinator."""
    operators: tuple[OperatorConfig, ...] = Field(strict=False, min_length=1)
    """Who may ask for runs."""
    sites: tuple[MemberConfig, ...] = Field(strict=False, min_length=1)
    """The hospitals."""
    validity_days: int = Field(default=365, ge=1, le=825)
    """Days until the server's certificate and the roster end and are renewed."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ConsortiumConfig":
        # Kits are folders, and some file systems take `A` for `a`.
        groups: dict[str, tuple[OperatorConfig | MemberConfig, ...]] = {
            "operators": self.operators,
            "sites": self.sites,
        }
        for key, entries in groups.items():
            names = [entry.name.lower() for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError(f"{key}: a name is given twice")
        return self


@dataclass(frozen=True)
class LoadedConsortium:
    """A consortium's configuration and the file that it stands in; every key is inline."""

    config: ConsortiumConfig
    path: Path
    """Absolute."""
    origin: Origin = field(default_factory=Origin)


def load_consortium(path: str | Path) -> LoadedConsortium:
    """Return the consortium that the file at `path` describes, its public keys read and compared.

    Raises:
        ConfigError: the file cannot be used, a .pub file cannot be read, or two share a key.
    """
    config, origin = read_config(path, ConsortiumConfig)
    folder = Path(path).resolve().parent
    changed: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for group in ("operators", "sites"):
        entries = []
        for index, entry in enumerate(getattr(config, group)):
            key = f"{group}[{index}].public_key"
            place = f"{origin.of(parse_key(key))}: {key}"
            text = _public_key(entry.public_key, folder, place)
            owner = seen.setdefault(fingerprint(text), f"{group}[{index}]")
            if owner != f"{group}[{index}]":
                raise ConfigError(f"{place}: the same key as {owner}; each makes its own")
            entries.append(entry.model_copy(update={"public_key": text}))
        changed[group] = tuple(entries)
    return LoadedConsortium(config.model_copy(update=changed), Path(path).resolve(), origin)


def is_host(text: str) -> bool:
    """Return whether `text` is a host name or an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST.fullmatch(text))
    return True


def _public_key(given: str, folder: Path, place: str) -> str:
    """Return the public text that is given, or that the named file holds."""
    if not given.startswith("ecdsa-"):
        path = folder / Path(given).expanduser()
        try:
            with path.open("rb") as file:
                given = file.read(_LARGEST_PUBLIC_FILE).decode()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                f"{place}: neither a public key nor a file that can be read; expected the line "
                "that `fedward enroll` printed, or the path of a file with it"
            ) from None
        if "PRIVATE KEY" in given:
            raise ConfigError(
                f"{place}: this file holds a PRIVATE key, which never leaves its owner; "
                "ask them for a new public key and to destroy this one"
            )
    try:
        return public_text(read_public(given))
    except TrustError as error:
        raise ConfigError(f"{place}: {error}") from None
