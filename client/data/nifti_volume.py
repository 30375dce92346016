"""NIfTI images and masks: which belong together, and as volumes.

Legend: I, J, K are the axes as they are stored.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from fedward.client.data.damaged import damage_as
from fedward.client.data.volume_grid import Grid, canonical, labels_on
from fedward.client.data.volumes import MaskFile, Quarantined, Series, Volume
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import ImageSchema

SUFFIXES = (".nii", ".nii.gz")
MASK_STEM = re.compile(r"^(?:(.+)[_-])?(mask|seg|label)(s|s?map|mentations?)?$", re.IGNORECASE)
# NIfTI is RAS: x and y grow to the right and to the front.
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
COMPOUND = (32, 128, 1792, 2048, 2304)
"""Of complex numbers and of colours, in the header's code."""
INT16 = np.iinfo(np.int16)


def pair_files(
    paths: Sequence[Path], folder: Path
) -> tuple[list[Series], list[MaskFile], list[Quarantined]]:
    """Return the images among NIfTI files, the masks of them, and what cannot be used.

    `<stem>_mask.nii.gz` (`_seg`, `_label`) is a mask of `<stem>.nii.gz`; `mask.nii.gz`, of the only
    image beside it. The patient is the first folder below `folder`, or the stem in it.
    """
    stems = {path: stem_of(path) for path in paths}
    images = {path for path in paths if not MASK_STEM.match(stems[path])}
    series: list[Series] = []
    masks: list[MaskFile] = []
    quarantined: list[Quarantined] = []
    for path in paths:
        image = path if path in images else _image_of(path, stems, images)
        patient = patient_of(image or path, folder)
        try:
            affected = _check_header(path)
        except SiteDataError as error:
            quarantined.append(Quarantined(path, str(error), patient))
            continue
        if path in images:
            series.append(_series(path, patient, affected))
        elif image is None and any(one.parent == path.parent for one in images):
            quarantined.append(Quarantined(path, "a mask of no one image beside it", patient))
        else:
            masks.append(MaskFile(path, "nifti", patient, (str(image),) if image else ()))
    return series, masks, quarantined


def stem_of(path: Path) -> str:
    """Return the name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def patient_of(path: Path, folder: Path) -> str:
    """Return the first folder below `folder`, or the stem (of the image) of a file in it."""
    parts = path.relative_to(folder).parts
    if len(parts) > 1:
        return parts[0]
    mask = MASK_STEM.match(stem_of(path))
    return (mask and mask.group(1)) or stem_of(path)


def load_nifti(series: Series) -> Volume:
    """Return an image as an axis-aligned volume.

    Raises:
        SiteDataError: it cannot be read, or its values do not fit.
    """
    image = _open(series.files[0])
    values_IJK = _values(image)
    if not np.isfinite(values_IJK).any():
        raise SiteDataError("it has no finite value")
    lowest = float(np.nanmin(values_IJK))
    if values_IJK.dtype.kind == "f":
        values_IJK = np.rint(np.nan_to_num(values_IJK, nan=lowest, posinf=lowest, neginf=lowest))
    voxels_IJK = np.clip(values_IJK, INT16.min, INT16.max).astype(np.int16)
    return canonical(voxels_IJK, _grid(image), fill=max(lowest, INT16.min))


def load_nifti_mask(mask: MaskFile, volume: Volume, schema: ImageSchema) -> NDArray[np.uint8]:
    """Return the (D, H, W) labels of a mask on the grid of a volume.

    Where the schema names one structure, any one value but 0 stands for it.

    Raises:
        SiteDataError: it holds values that are no structure, or lies elsewhere.
    """
    image = _open(mask.path)
    values_IJK = _values(image)
    found = np.unique(values_IJK)
    marks = found[found != 0]
    num_structures = len(schema.structures)
    if len(marks) == 1 and num_structures == 1:
        labels_IJK = (values_IJK == marks[0]).astype(np.uint8)
    elif np.isin(marks, np.arange(1, num_structures + 1)).all():
        labels_IJK = values_IJK.astype(np.uint8)
    else:
        raise SiteDataError(
            f"its mask holds {len(marks)} values besides 0, not all of them 1 to "
            f"{num_structures}, as the schema's structures are"
        )
    grid = _grid(image)
    if not _has_place(image) and tuple(sorted(grid.shape)) != tuple(
        sorted(volume.voxels_DHW.shape)
    ):
        raise SiteDataError("its mask has another size than the image, and says not where it lies")
    return labels_on(labels_IJK, grid, volume)


def nifti_grid(path: Path) -> Grid:
    """Return where the voxels of a file lie.

    Raises:
        SiteDataError: it cannot be read, or has no orientation.
    """
    return _grid(_open(path))


def _image_of(mask: Path, stems: dict[Path, str], images: set[Path]) -> Path | None:
    match = MASK_STEM.match(stems[mask])
    beside = [path for path in sorted(images) if path.parent == mask.parent]
    named = [path for path in beside if match and stems[path] == match.group(1)]
    if named:
        return named[0]
    return beside[0] if len(beside) == 1 and match and not match.group(1) else None


def _open(path: Path) -> Nifti1Image:
    with damage_as("it is no readable NIfTI file"):
        image: Any = nib.load(path)
    if not isinstance(image, Nifti1Image):
        raise SiteDataError(f"it is no NIfTI file but {type(image).__name__}")
    return image


def _values(image: Nifti1Image) -> NDArray[Any]:
    with damage_as("its voxels cannot be read; is it complete?"):
        proxy: Any = image.dataobj
        is_plain = (proxy.slope, proxy.inter) == (1, 0)
        # Half of the memory of nibabel's own choice, and exact for every value of 16 bits.
        values_IJK = proxy.get_unscaled() if is_plain else proxy.get_scaled(np.float32)
        return np.asarray(values_IJK).reshape(values_IJK.shape[:3])


def _has_place(image: Nifti1Image) -> bool:
    return bool(image.header["sform_code"] or image.header["qform_code"])


def _grid(image: Nifti1Image) -> Grid:
    if image.affine is None:
        raise SiteDataError("it has no orientation")
    affine = RAS_TO_LPS[:, None] * np.asarray(image.affine, dtype=np.float64)[:3]
    rows, columns, slices = image.shape[:3]
    return Grid(affine[:, :3], affine[:, 3], (rows, columns, slices))


def _check_header(path: Path) -> Nifti1Image:
    """Return the opened image, of which no voxel is read.

    Raises:
        SiteDataError: it is no single volume of numbers.
    """
    image = _open(path)
    shape = image.shape
    if len(shape) < 3 or any(count != 1 for count in shape[3:]):
        raise SiteDataError(f"it has {len(shape)} dimensions, not three")
    if image.header["datatype"] in COMPOUND:
        raise SiteDataError("its voxels are no single numbers")
    _grid(image)
    return image


def _series(path: Path, patient: str, image: Nifti1Image) -> Series:
    notes = []
    if not _has_place(image):
        notes.append("no orientation is stored: taken as right, anterior, superior")
    if not _grid(image).is_aligned():
        notes.append("oblique slices resampled to the axes of the body")
    slices = int(image.shape[_grid(image).axes()[2]])
    return Series(
        patient=patient,
        study_uid="",
        series_uid="",
        frame_uid="",
        files=(path,),
        kind="nifti",
        facts={"modality": "", "num_slices": float(slices)},
        notes=tuple(notes),
    )
