"""Whether a volume's values are HU, or what else they seem to be."""

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.volumes import Volume

# HU of air, and of everything soft from fat to muscle; wide enough for noise (Hounsfield 1980).
AIR_HU = (-1100, -850)
SOFT_HU = (-150, 120)
OFFSET = 1024
MAX_CHECKED = 2_000_000


def hu_problem(volume: Volume) -> str | None:
    """Return what is wrong with values that should be HU, or None.

    A region without air is fine. An offset is named where the values fit soft tissue (and air) only
    after it is taken off.

    Source: ours.
    """
    voxels = volume.voxels_DHW.reshape(-1)
    voxels = voxels[:: max(1, voxels.size // MAX_CHECKED)]
    low, high = int(voxels.min()), int(voxels.max())
    if low == high:
        return "all voxels have the same value"
    if low >= 0 and high <= 255:
        return f"values from {low} to {high} are shades of grey rather than HU"
    if _is_shifted_up(voxels):
        return (
            f"values are about {OFFSET} too high for HU (air near 0, water near {OFFSET}): they "
            f"look like unsigned + {OFFSET}; is RescaleIntercept missing?"
        )
    if _is_shifted_down(voxels):
        return (
            f"values are about {OFFSET} too low for HU (air near {-1000 - OFFSET}); is "
            "RescaleIntercept applied twice?"
        )
    if high < SOFT_HU[0] or low > 1500:
        return "no voxel is in the range of soft tissue; these are not HU"
    return None


def _share(voxels: NDArray[np.int16], low: float, high: float) -> float:
    return float(((voxels >= low) & (voxels <= high)).mean())


def _is_shifted_up(voxels: NDArray[np.int16]) -> bool:
    if np.percentile(voxels, 0.1) < -60:
        return False
    tissue = _share(voxels, SOFT_HU[0] + OFFSET, SOFT_HU[1] + OFFSET)
    if tissue >= 0.5:
        return True
    # What is near 0 is either air that is 1024 too high, or soft tissue round a large stone.
    near_zero = voxels[(voxels >= -76) & (voxels <= 174)]
    return tissue >= 0.1 and near_zero.size > 0 and float(np.median(near_zero)) <= 28


def _is_shifted_down(voxels: NDArray[np.int16]) -> bool:
    air = _share(voxels, AIR_HU[0] - OFFSET, AIR_HU[1] - OFFSET)
    tissue = _share(voxels, SOFT_HU[0] - OFFSET, SOFT_HU[1] - OFFSET)
    above = float((voxels > -300).mean())
    return (air >= 0.01 or tissue >= 0.5) and above < 0.1 and tissue >= 0.1
