"""The slices of a DICOM series as a volume in HU.

Legend: K slices, R rows, C columns as they are stored.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from fedward.client.data.dicom_decode import read_pixels
from fedward.client.data.dicom_stack import Stack
from fedward.client.data.volume_grid import canonical
from fedward.client.data.volumes import Series, Volume
from fedward.common.errors import SiteDataError

AIR = -1000
# What scanners write outside the field of view lies below this; a lesser "padding" is a real value.
MAX_PADDING = -900
INT16 = np.iinfo(np.int16)


def load_dicom(series: Series) -> Volume:
    """Return a series as an axis-aligned volume in HU.

    Missing slices are interpolated, a gantry tilt is taken out, and padding outside the field of
    view becomes air.

    Raises:
        SiteDataError: a file cannot be read or decoded, or is not as its header was.
    """
    if series.stack is None:
        raise SiteDataError("the series was not made by scan_folder")
    voxels_KRC = _stored(series.stack)
    _interpolate_missing(voxels_KRC, series.stack.slots)
    return canonical(voxels_KRC, series.stack.grid, fill=AIR)


def _stored(stack: Stack) -> NDArray[np.int16]:
    voxels_KRC = np.empty(stack.grid.shape, dtype=np.int16)
    placed: dict[Path, list[tuple[int, int]]] = {}
    for one, slot in zip(stack.slices, stack.slots, strict=True):
        placed.setdefault(one.path, []).append((one.frame, slot))
    for places, (dataset, pixels_KRC) in zip(
        placed.values(), read_pixels(list(placed)), strict=True
    ):
        padding = _padding(dataset)
        for frame, slot in places:
            if frame >= len(pixels_KRC) or pixels_KRC.shape[1:] != stack.grid.shape[1:]:
                raise SiteDataError("a file is not as it was when the folder was scanned")
            slope, intercept = _rescale(dataset, frame)
            voxels_KRC[slot] = _to_hu(pixels_KRC[frame], slope, intercept, padding)
    return voxels_KRC


def _rescale(dataset: Dataset, frame: int) -> tuple[float, float]:
    """Return slope and intercept of a frame; 1 and 0 where none are given."""
    source = dataset
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    for groups in (dataset.get("SharedFunctionalGroupsSequence"), own and [own[frame]]):
        if groups and "PixelValueTransformationSequence" in groups[0]:
            source = groups[0].PixelValueTransformationSequence[0]
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope == 0:
        raise SiteDataError("RescaleSlope is 0")
    return float(1 if slope is None else slope), float(intercept or 0)


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that stands for no measurement."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    other = limit if isinstance(limit, int) else value
    return min(value, other), max(value, other)


def _to_hu(
    pixels_RC: NDArray[np.int_], slope: float, intercept: float, padding: tuple[int, int] | None
) -> NDArray[np.int16]:
    low, high = (float(value) * slope + intercept for value in (pixels_RC.min(), pixels_RC.max()))
    fits = INT16.min <= min(low, high) and max(low, high) <= INT16.max
    if fits and slope == 1 and intercept.is_integer() and abs(intercept) <= INT16.max:
        # Modulo 2**16, and so exact where the sum fits.
        hu_RC = pixels_RC.astype(np.int16) + np.int16(intercept)
    else:
        exact_RC = np.rint(pixels_RC * slope + intercept)
        hu_RC = np.clip(exact_RC, INT16.min, INT16.max).astype(np.int16)
    if padding is not None and padding[1] * slope + intercept < MAX_PADDING:
        hu_RC[(pixels_RC >= padding[0]) & (pixels_RC <= padding[1])] = AIR
    return hu_RC


def _interpolate_missing(voxels_KRC: NDArray[np.int16], slots: tuple[int, ...]) -> None:
    """Fill slots without a slice, linearly between the nearest that have one."""
    for below, above in pairwise(slots):
        for slot in range(below + 1, above):
            share = (slot - below) / (above - below)
            between_RC = (1 - share) * voxels_KRC[below] + share * voxels_KRC[above]
            voxels_KRC[slot] = np.rint(between_RC)
