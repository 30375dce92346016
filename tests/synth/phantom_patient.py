"""A patient made by hand, whose every voxel a test knows."""

import numpy as np

from fedward.synth.phantom.case import Lesion, Phantom
from fedward.synth.phantom.presets import Labels
from fedward.synth.phantom.scanner import Scanner

SCANNER = Scanner(
    name="soft-2.5",
    kernel="B20f",
    slice_mm=2.5,
    pixel_mm=0.75,
    blur_mm=1.0,
    noise_hu=15.0,
    noise_grain_mm=2.0,
    bias_hu=3.0,
)
LABELS = Labels("site-a-00001", cohort="0123456789abcdef", software="test")


def patient() -> Phantom:
    """Return 6 slices of 34 rows and 40 columns; the kidney has a hole and touches the border."""
    voxels_DHW = np.random.default_rng(0).integers(-1024, 3500, (6, 34, 40)).astype(np.int16)
    voxels_DHW[0, 0, 0], voxels_DHW[0, 0, 1] = -1024, 32767
    mask_DHW = np.zeros((6, 34, 40), np.uint8)
    mask_DHW[1:5, 3:12, 0:10] = 1
    mask_DHW[2:4, 5:9, 3:7] = 0  # the hole
    mask_DHW[2:4, 6:8, 4:6] = 2  # in it, a stone
    mask_DHW[4, 15, 20] = 2  # of one voxel
    mask_DHW[3, 14, 12] = mask_DHW[3, 15, 13] = 1  # touch at a corner
    return Phantom(
        voxels_DHW=voxels_DHW,
        mask_DHW=mask_DHW,
        spacing_mm=(2.5, 0.75, 0.75),
        origin_mm=(-31.25, 12.5, -307.125),
        structures=("kidney", "stone"),
        clinical={
            "age": 63.0,
            "sex": "F",
            "blood_wbc": 7.123456789,
            "creatinine": None,
            "urine_wbc": 3.0,
            "urine_ph": 6.5,
            "location": "left-kidney",
        },
        label=1,
        lesions=(
            Lesion(
                structure="stone",
                composition="cystine",
                side="left",
                place="renal-pelvis",
                diameter_mm=6.0,
                volume_mm3=40.0,
                mean_hu=600.0,
                sd_hu=20.0,
                centre_mm=(-27.9, 17.4, -301.0),
            ),
        ),
    )
