"""Which patients a budget is about.

A patient's privacy is spent by everything that was ever done with the patient, in whatever file
the rows lay at the time. So a data set is neither a path nor a name that somebody gives: it is the
site and a keyed hash over its patients, and two data sets that share a patient share what was
spent. A nightly export with one patient more is another data set, and starts with what the old one
has spent; only patients of whom none was ever used start at zero.

Where that cannot be told, patients are taken to be shared: when the hashes were removed (after
`retention_days`), were made with another salt, or when the schema names no patients.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

HASH_BYTES = 16
_DOMAIN = b"fedward data set 1\0"
_SALT_PURPOSE = b"fedward salt of data sets\0"


@dataclass(frozen=True, repr=False)
class DataSet:
    """The patients of one training. It has no repr of them."""

    site: str
    salt_mark: str
    """Tells two salts apart, and nothing else of them."""
    patients: bytes
    """The keyed hashes of the patients, 16 bytes each, in rising order; empty: not known."""

    @classmethod
    def of(cls, site: str, hashes: Iterable[str], salt: bytes) -> Self:
        """Return the data set of these patients.

        Args:
            site: whose.
            hashes: from `cohort.hash_patients`, of everybody whose rows may be used.
            salt: with which they were made.
        """
        kept = sorted({bytes.fromhex(one)[:HASH_BYTES] for one in hashes})
        mark = hmac.new(salt, _SALT_PURPOSE, hashlib.sha256).hexdigest()[:16]
        return cls(site, mark, b"".join(kept))

    @cached_property
    def name(self) -> str:
        """SHA-256 (hex): equal for equal patients of one site."""
        content = "\0".join((self.site, self.salt_mark, "")).encode() + self.patients
        return hashlib.sha256(_DOMAIN + content).hexdigest()

    @property
    def num_patients(self) -> int | None:
        """How many there are; None: not known."""
        return len(self.patients) // HASH_BYTES or None

    def may_share_a_patient(self, other: "DataSet") -> bool:
        """Return whether somebody is in both, or might be."""
        if self.salt_mark != other.salt_mark or not self.patients or not other.patients:
            return True
        return not self._members.isdisjoint(other._members)

    @cached_property
    def _members(self) -> frozenset[bytes]:
        whole = self.patients
        return frozenset(
            whole[place : place + HASH_BYTES] for place in range(0, len(whole), HASH_BYTES)
        )
