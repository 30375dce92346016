"""Makes the key of a site or an operator on the machine where it stays."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedward.common.config.section import SiteName
from fedward.common.config.site import load_site_config
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import (
    fingerprint,
    load_key,
    make_key,
    public_text,
    read_private,
    write_private,
)

SALT_BYTES = 32


@dataclass(frozen=True)
class Enrolled:
    """The public side of a key."""

    role: str
    """`site` or `operator`."""
    name: str
    key_file: Path
    public_key: str
    is_new: bool
    """Whether this call made the key."""

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return fingerprint(self.public_key)

    @property
    def entry(self) -> str:
        """The lines for consortium.yaml."""
        lines = [f"  - name: {self.name}", f"    public_key: {self.public_key}"]
        if self.role == "site":
            lines.append("    cohort_bound: NUMBER  # most patients that you will ever train on")
        return "\n".join([f"{self.role}s:", *lines, ""])

    def as_dict(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "role": self.role,
            "name": self.name,
            "key_file": str(self.key_file),
            "public_key": self.public_key,
            "fingerprint": self.fingerprint,
            "new": self.is_new,
        }


def enroll_site(path: Path) -> Enrolled:
    """Return the site's public key; key and salt for patient ids are made where there are none.

    Raises:
        ConfigError: site.yaml or a secret beside it cannot be used.
        StorageError: a file cannot be written.
    """
    site = load_site_config(path)
    salt, database = site.file(site.config.id_salt_file), site.file(site.config.database)
    if not salt.exists():
        if database.exists():
            raise ConfigError(
                f"{salt}: not there, but the ids of patients in {database} were hashed with it; "
                "put it back from your backup, or remove the database with `fedward site purge`"
            )
        write_private(salt, secrets.token_bytes(SALT_BYTES))
    elif len(read_private(salt)) < SALT_BYTES:
        raise ConfigError(f"{salt}: shorter than {SALT_BYTES} bytes; put it back from your backup")
    return _enroll("site", site.config.site, site.file(site.config.key_file))


def enroll_operator(name: str, key_file: Path) -> Enrolled:
    """Return the operator's public key, made where there is none.

    Raises:
        ConfigError: the name cannot be used, or the file is no such key.
        StorageError: the file cannot be written.
    """
    try:
        TypeAdapter(SiteName).validate_python(name)
    except ValidationError:
        raise ConfigError(
            "--operator: this name cannot be used, expected letters, digits, - and _"
        ) from None
    return _enroll("operator", name, key_file)


def _enroll(role: str, name: str, key_file: Path) -> Enrolled:
    is_new = not key_file.exists()
    public = make_key(key_file) if is_new else public_text(load_key(key_file))
    beside = key_file.with_name(f"{key_file.name}.pub")
    try:
        if not beside.exists() or beside.read_text(encoding="utf-8").strip() != public:
            beside.write_text(f"{public}\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{beside}: cannot be written: {error.strerror}") from error
    return Enrolled(role, name, key_file, public, is_new)
