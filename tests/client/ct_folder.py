"""A small clinic with scans: NIfTI files with masks, and a clinical table, in a folder.

Legend: D, H, W as in a volume.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.common.tables.schema import TableSchema

STONE = (20, 18, 22)
"""Where the large stone of a scan is."""
STONES = TableSchema.model_validate(
    {
        "version": 1,
        "name": "stones",
        "patient_id": "patient",
        "label": {"column": "infection", "classes": ["no", "yes"]},
        "fields": [
            {"name": "age", "kind": "continuous", "unit": "years", "range": [0, 120]},
            {"name": "sex", "kind": "categorical", "categories": ["F", "M"]},
        ],
        "subgroups": [{"name": "women", "column": "sex", "equals": "F"}],
        "drop": [{"column": "age", "at_most": 1}],
        "min_cohort": 2,
        "image": {"structures": ["stone"], "lesion": "stone"},
    }
)
MASKS_ONLY = STONES.model_copy(
    update={"label": None, "fields": (), "subgroups": (), "drop": (), "patient_id": None}
)


def scan(offset: int = 0) -> NDArray[np.int16]:
    """Return (D, H, W) HU: a body in air, with a large stone and a small one."""
    voxels = np.full((40, 40, 44), -1000, dtype=np.int16)
    voxels[:, 4:36, 4:40] = 40
    voxels[:, 4:36, 4:40] += np.arange(32, dtype=np.int16)[None, :, None] % 7
    d, h, w = STONE
    voxels[d - 3 : d + 3, h - 3 : h + 3, w - 3 : w + 3] = 700 + offset
    voxels[5:7, 30:32, 8:10] = 500
    return voxels


def mask() -> NDArray[np.uint8]:
    """Return the (D, H, W) labels of `scan`: a stone of 216 voxels, one of 8, and one of one."""
    labels = np.zeros((40, 40, 44), dtype=np.uint8)
    d, h, w = STONE
    labels[d - 3 : d + 3, h - 3 : h + 3, w - 3 : w + 3] = 1
    labels[5:7, 30:32, 8:10] = 1
    labels[35, 10, 10] = 1
    return labels


def write_nifti(
    path: Path,
    voxels_DHW: NDArray[np.int16] | NDArray[np.uint8],
    spacing_mm: float = 1.0,
    shift_mm: float = 0.0,
) -> None:
    """Write a volume whose rows run to the left, back and head, as a DICOM one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[2, 3] = shift_mm
    image = nib.Nifti1Image(voxels_DHW.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    nib.save(image, path)


def write_patient(folder: Path, patient: str, *, masked: bool = True, offset: int = 0) -> None:
    """Write the scan of a patient, in a folder that bears the name."""
    write_nifti(folder / patient / "ct.nii.gz", scan(offset))
    if masked:
        write_nifti(folder / patient / "ct_mask.nii.gz", mask())


def write_table(folder: Path, patients: list[str]) -> pd.DataFrame:
    """Write the clinical table: every second patient is infected."""
    frame = pd.DataFrame(
        {
            "patient": patients,
            "age": [30.0 + 5 * number for number in range(len(patients))],
            "sex": ["F" if number % 2 else "M" for number in range(len(patients))],
            "infection": [number % 2 for number in range(len(patients))],
        }
    )
    frame.to_csv(folder / "patients.csv", index=False)
    return frame
