"""Which runs used which patient, so that a patient who withdraws can be answered.

The site's database keeps a keyed hash of each patient's identifier for every run, never the
identifier. The hashes are pseudonyms: whoever holds the site's salt and a list of identifiers can
tell who was in a run, so they are personal data still and leave the site as little as rows do.
"""

import hashlib
import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fedward.client.data.read import spelled
from fedward.client.durable import Durable, now
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.keys import read_private

SALT_BYTES = 32
_PURPOSE = b"fedward patient\x00"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cohort (
    run_key TEXT NOT NULL, patient TEXT NOT NULL, recorded TEXT NOT NULL,
    PRIMARY KEY (run_key, patient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cohort_by_patient ON cohort (patient)
"""


@dataclass(frozen=True)
class UsedIn:
    """One run that used a patient."""

    run_key: str
    recorded: str
    """When the run first used the patient, in UTC."""


def read_salt(path: Path) -> bytes:
    """Return the site's salt.

    Raises:
        ConfigError: there is none, others can read it, or it is too short to keep identifiers
            from being guessed.
    """
    try:
        salt = read_private(path)
    except ConfigError as error:
        raise ConfigError(f"id_salt_file: {error}; `fedward enroll` makes it") from None
    if len(salt) < SALT_BYTES:
        raise ConfigError(
            f"id_salt_file: {path}: shorter than {SALT_BYTES} bytes; `fedward enroll` makes one"
        )
    return salt


def hash_patients(ids: Iterable[object], salt: bytes) -> list[str]:
    """Return the HMAC-SHA256 (hex) of each identifier under the site's salt.

    7, 7.0, "7" and " 07" are one patient, as they are in the exclusion list.
    """
    return [
        hmac.new(salt, _PURPOSE + spelled(patient).encode(), hashlib.sha256).hexdigest()
        for patient in ids
    ]


def record_cohort(database: Path, run_key: str, hashes: Collection[str]) -> int:
    """Write down who is in a run, and return how many of them are new to it.

    Asked before the run's first training; to ask again changes nothing.

    Raises:
        StorageError: the database cannot be written.
    """
    recorded = now()
    # A run must not train on anybody who is not yet written down, also if power fails.
    table = Durable(database, _SCHEMA)
    try:
        with table.transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO cohort VALUES (?, ?, ?)",
                [(run_key, patient, recorded) for patient in hashes],
            )
            return connection.total_changes - before
    finally:
        table.close()


def runs_of(database: Path, patient: str, salt: bytes) -> list[UsedIn]:
    """Return the runs that used a patient, oldest first.

    Args:
        database: the site's.
        patient: the identifier as the hospital writes it.
        salt: from `read_salt`.

    Raises:
        SiteDataError: the identifier is empty.
        StorageError: the database cannot be read.
    """
    if not patient.strip():
        raise SiteDataError("no patient identifier was given")
    (hashed,) = hash_patients([patient], salt)
    table = Durable(database, _SCHEMA)
    try:
        with table.transaction() as connection:
            rows = connection.execute(
                "SELECT run_key, recorded FROM cohort WHERE patient = ? ORDER BY recorded, run_key",
                (hashed,),
            ).fetchall()
    finally:
        table.close()
    return [UsedIn(*row) for row in rows]
