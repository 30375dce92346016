"""Images and masks of one patient as files: DICOM or NIfTI.

Legend: D slices from feet to head, H rows from front to back, W columns from the patient's right to
the left.
"""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from fedward.synth.phantom.case import Phantom
from fedward.synth.phantom.dicom_masks import write_segmentation, write_structure_set
from fedward.synth.phantom.dicom_writer import write_series
from fedward.synth.phantom.presets import Export, Labels
from fedward.synth.phantom.scanner import Scanner


def write_patient(
    phantom: Phantom, folder: Path, *, labels: Labels, scanner: Scanner, export: Export | None
) -> None:
    """Write images and masks of one patient.

    Args:
        phantom: the patient.
        folder: where; made if absent.
        labels: what the patient's files share.
        scanner: the site's.
        export: how DICOM files are written; None: as NIfTI.

    Raises:
        OSError: a file cannot be written.
    """
    if export is None:
        _write_nifti(phantom, folder)
        return
    images = write_series(phantom, folder / "CT", labels=labels, scanner=scanner, export=export)
    if not phantom.mask_DHW.any():
        return
    write = _MASK_WRITERS[export.masks]
    write(phantom, folder / f"{export.masks}.dcm", labels=labels, images=images)


_MASK_WRITERS = {"seg": write_segmentation, "rtstruct": write_structure_set}


def _write_nifti(phantom: Phantom, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    depth_mm, height_mm, width_mm = phantom.spacing_mm
    x, y, z = phantom.origin_mm
    affine = np.diag([-width_mm, -height_mm, depth_mm, 1.0])  # NIfTI grows to right and front
    affine[:3, 3] = (-x, -y, z)
    _save(phantom.voxels_DHW, affine, folder / "ct.nii.gz")
    _save(phantom.mask_DHW, affine, folder / "ct_mask.nii.gz")


def _save(
    array_DHW: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64], path: Path
) -> None:
    image = nibabel.Nifti1Image(np.ascontiguousarray(array_DHW.T), affine)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code="scanner")  # type: ignore[no-untyped-call]
    image.set_sform(affine, code="scanner")  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    nibabel.save(image, path)
