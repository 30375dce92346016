"""How each site of a cohort writes its DICOM files, so that sites differ as real ones do."""

import uuid
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Export:
    """The habits of a site's archive."""

    transfer_syntax: str
    """DICOM's UID of how values and pixels are encoded."""
    masks: Literal["seg", "rtstruct"]
    """Kind of file that holds the masks."""
    head_first: bool
    """Whether the slice nearest to the head has instance number 1."""


EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_EXPORTS = (
    Export(EXPLICIT, masks="seg", head_first=False),
    Export(JPEG_2000_LOSSLESS, masks="rtstruct", head_first=True),
    Export(JPEG_LS_LOSSLESS, masks="seg", head_first=True),
    Export(RLE_LOSSLESS, masks="rtstruct", head_first=False),
    Export(IMPLICIT, masks="rtstruct", head_first=True),
)


def export_of(index: int) -> Export:
    """Return how the `index`-th site (0, 1, 2 ...) writes its files, always the same way."""
    return _EXPORTS[index % len(_EXPORTS)]


_NAMESPACE = uuid.UUID("6b7f1c52-0f0c-5a0e-9c55-3f2f6f1f6a10")


@dataclass(frozen=True, repr=False)
class Labels:
    """What files of one patient have in common."""

    patient: str
    """Text that names the patient in the table and in the files."""
    cohort: str
    """Of the cohort's contents; all UIDs follow from it and from the patient."""
    software: str
    """What made the files."""

    def uid(self, purpose: str) -> str:
        """Return the UID of one thing of this patient, always the same one.

        Source: DICOM PS3.5 B.2 (UUID-derived); RFC 9562, version 5.
        """
        name = "\x1f".join((self.cohort, self.patient, purpose))
        return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"
