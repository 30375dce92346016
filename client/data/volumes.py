"""Scans as volumes: what a folder of images holds, and one series or mask of it in memory.

Legend: D slices from feet to head, H rows from front to back, W columns from the patient's right to
the left; positions in millimetres are x, y, z of LPS (DICOM): growing to left, posterior, superior.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.damaged import damage_as
from fedward.client.data.read import spelled
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import ImageSchema

if TYPE_CHECKING:
    from fedward.client.data.dicom_stack import Stack

Vector = tuple[float, float, float]
MAX_VOXELS = 2**30
"""A volume of more is refused: 2 GiB."""
Progress = Callable[[int, int], None]
"""Called with the number of files that are done and the number there are."""


@dataclass(frozen=True, repr=False)
class Volume:
    """Voxels on an axis-aligned grid."""

    voxels_DHW: NDArray[np.int16]
    spacing_mm: Vector
    """Along D, H, W."""
    origin_mm: Vector
    """x, y, z of the middle of voxel (0, 0, 0)."""


@dataclass(frozen=True, repr=False)
class Series:
    """One image series that can be loaded; only its headers have been read."""

    patient: str
    study_uid: str
    series_uid: str
    frame_uid: str
    files: tuple[Path, ...]
    """In the order of their slices."""
    kind: Literal["dicom", "nifti"]
    facts: Mapping[str, str | float] = field(default_factory=dict)
    """Such as modality, manufacturer, kernel; never names or dates."""
    notes: tuple[str, ...] = ()
    """What is repaired on loading."""
    stack: "Stack | None" = None
    """Of DICOM: where its slices lie."""


@dataclass(frozen=True, repr=False)
class MaskFile:
    """One file of contours or labels."""

    path: Path
    kind: Literal["rtstruct", "seg", "nifti"]
    patient: str
    refers_to: tuple[str, ...] = ()
    """UIDs of series, or their first files."""


@dataclass(frozen=True, repr=False)
class Quarantined:
    """A file that is not used, and why."""

    path: Path
    reason: str
    patient: str = ""
    """As far as it is known."""


@dataclass(frozen=True, repr=False)
class Scan:
    """What a folder holds."""

    series: tuple[Series, ...]
    masks: tuple[MaskFile, ...]
    quarantined: tuple[Quarantined, ...]


def scan_folder(
    folder: Path, *, excluded: Collection[str] = (), progress: Progress | None = None
) -> Scan:
    """Return the series and masks below `folder`, and what cannot be used. Reads headers only.

    Args:
        folder: a site's images, in any arrangement of sub-folders.
        excluded: patients of whom nothing is returned, not even in the quarantine, whether a file
            or the first folder below `folder` names them; 7, 7.0 and "7" are the same patient.
        progress: told how far the scan is.

    Raises:
        SiteDataError: there is no such folder. A file that cannot be used is no error.
    """
    from fedward.client.data.dicom_scan import scan_files

    if not folder.is_dir():
        raise SiteDataError(f"{folder}: there is no such folder of images")
    scan = scan_files(folder, progress or (lambda done, total: None))
    gone = {spelled(patient) for patient in excluded}

    def is_kept(patient: str, *paths: Path) -> bool:
        names = {patient, *(path.relative_to(folder).parts[0] for path in paths)}
        return not gone or gone.isdisjoint(map(spelled, names))

    return Scan(
        tuple(series for series in scan.series if is_kept(series.patient, *series.files)),
        tuple(mask for mask in scan.masks if is_kept(mask.patient, mask.path)),
        tuple(entry for entry in scan.quarantined if is_kept(entry.patient, entry.path)),
    )


def load_volume(series: Series) -> Volume:
    """Return the voxels of a series, in HU for CT.

    Raises:
        SiteDataError: the files cannot be decoded, or do not make a volume. The text names no
            file: its name may be a patient's.
    """
    from fedward.client.data.dicom_volume import load_dicom
    from fedward.client.data.nifti_volume import load_nifti

    with damage_as("its images cannot be read"):
        return load_nifti(series) if series.kind == "nifti" else load_dicom(series)


def load_mask(
    mask: MaskFile, series: Series, volume: Volume, schema: ImageSchema
) -> NDArray[np.uint8]:
    """Return the labels of a mask on the grid of `volume`: 0, or k for the k-th structure.

    (D, H, W) in shape. Where structures overlap, the one that the schema names later is kept.

    Args:
        mask: one of the scan's.
        series: what `volume` was loaded from.
        volume: the grid.
        schema: names the structures, and their aliases.

    Raises:
        SiteDataError: unreadable, of another frame of reference, or without any of the structures.
    """
    from fedward.client.data.dicom_masks import load_rtstruct, load_seg
    from fedward.client.data.nifti_volume import load_nifti_mask

    with damage_as("its mask cannot be read"):
        if mask.kind == "nifti":
            return load_nifti_mask(mask, volume, schema)
        load = load_rtstruct if mask.kind == "rtstruct" else load_seg
        return load(mask, series, volume, schema)


def structure_names(mask: MaskFile) -> tuple[str, ...]:
    """Return how a mask names what it holds, for those who write a schema; () for NIfTI.

    Raises:
        SiteDataError: the file cannot be read.
    """
    from fedward.client.data.dicom_masks import names_in

    with damage_as("its mask cannot be read"):
        return () if mask.kind == "nifti" else names_in(mask)


def masks_of(scan: Scan, series: Series) -> tuple[MaskFile, ...]:
    """Return the masks that belong to a series.

    Those that name it; and those of its patient that name no series that is there.
    """
    names = {series.series_uid, str(series.files[0])} - {""}
    known = {uid for other in scan.series for uid in (other.series_uid, str(other.files[0]))}
    return tuple(
        mask
        for mask in scan.masks
        if names & set(mask.refers_to)
        or (mask.patient == series.patient and not known & set(mask.refers_to))
    )


def check_hu(volume: Volume) -> str | None:
    """Return what is wrong with values that should be HU, such as an offset of 1024; or None."""
    from fedward.client.data.volume_units import hu_problem

    return hu_problem(volume)
