"""Runs predictions for the tests of them, and looks at what was written.

Legend: D, H, W as in a volume.
"""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedward.client.predict_ct import ScanPrediction, predict_scans
from tests.client.dicom_files import Geometry
from tests.client.scan_models import ORIGIN_MM, SPACING_MM, abdomen

PLACE = Geometry(SPACING_MM, ORIGIN_MM)
ABDOMEN = abdomen()
TOUCHING = np.ones((3, 3, 3), dtype=bool)
KIDNEY: dict[str, Any] = {"low": (35 + 400) / 2400, "high": (110 + 400) / 2400}
"""Levels between which kidney is, after the window."""


def predicted(model: Any, folder: Path, out: Path, **options: Any) -> ScanPrediction:
    return predict_scans(model, folder, out, own_models=True, **options)


def facts_in(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "measurements.json").read_text())
    return found


def nifti_of(path: Path) -> Any:
    return nib.load(path)


def upright(path: Path) -> NDArray[Any]:
    """Return (D, H, W): nibabel's own way to right, anterior, superior, and from there to ours."""
    image: Any = nib.as_closest_canonical(nifti_of(path))  # type: ignore[no-untyped-call]
    return np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]


def is_within_a_voxel(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> bool:
    grown = [ndimage.binary_dilation(one, TOUCHING) for one in (found, truth)]
    return bool((truth <= grown[0]).all() and (found <= grown[1]).all())


def is_above(found: NDArray[np.bool_], voxels: NDArray[np.int16]) -> bool:
    """Return whether `found` is where voxels reach 350 HU; the window rounds to half a HU or so."""
    sure = np.abs(voxels - 350.0) > 2
    return bool(found.any() and np.array_equal(found[sure], (voxels >= 350)[sure]))
