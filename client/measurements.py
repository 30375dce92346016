"""How large and dense what was found in a scan is, lesion by lesion.

Stones are measured from their brightness (`fedward.common.images.measure`), where they are bright
against what surrounds them: `half-maximum`. All else is measured as its mask says: `mask`; that is
as exact as the mask.

Legend: D, H, W as in a volume; V points; x, y, z of LPS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fedward.client.data.volumes import Vector, Volume
from fedward.common.images.lesions import components, two_largest_components
from fedward.common.images.measure import (
    BESIDE_MM,
    BODY_HU,
    MARGIN_MM,
    MIN_VOXELS,
    NOISE_WIDTHS,
    Mask,
    Stone,
    find_stones,
    kidney_region,
    longest_distance,
    measure_stones,
)

STONES = frozenset({"stone", "stones", "calculus", "urolith"})
MIN_CONTRAST_HU = 100.0
"""A stone that is not so much brighter than its surroundings is measured as its mask says."""
WHOLE_BODY_MM = 150.0
"""In a narrower image nobody can tell left from right."""
Method = Literal["half-maximum", "mask"]


@dataclass(frozen=True)
class Lesion:
    """One lesion."""

    structure: str
    side: Literal["left", "right"] | None
    """The patient's; None where the image shows too little of the body to tell."""
    diameter_mm: float
    """Longest distance between two points of its surface (max Feret)."""
    volume_mm3: float
    mean_hu: float
    max_hu: float
    centre_mm: Vector
    """Of its mass: x, y, z of LPS, as DICOM counts."""
    method: Method

    def voxel(self, volume: Volume) -> list[int]:
        """Return the voxel at its centre, along D, H, W."""
        along = np.array(self.centre_mm)[::-1] - np.array(volume.origin_mm)[::-1]
        voxel: list[int] = np.rint(along / np.array(volume.spacing_mm)).astype(int).tolist()
        return voxel


@dataclass(frozen=True, repr=False)
class Finding:
    """The lesions of a scan, the largest first, and where they are.

    Args:
        lesions: measured.
        mask_DHW: their voxels.
    """

    lesions: tuple[Lesion, ...]
    mask_DHW: Mask


def stones_in_kidneys(volume: Volume, kidneys_DHW: Mask, threshold_hu: float) -> Finding:
    """Return the stones of both kidneys by raw HU.

    Args:
        volume: in HU.
        kidneys_DHW: as the network drew them; the two largest parts count.
        threshold_hu: voxels from here on may be stone.
    """
    found = find_stones(
        volume.voxels_DHW, kidneys_DHW, volume.spacing_mm, threshold_hu=threshold_hu
    )
    mask_DHW = np.zeros(kidneys_DHW.shape, dtype=bool)
    if found:
        mask_DHW = _bright_parts(volume, kidneys_DHW, threshold_hu)
    middle = _middle_mm(volume, kidneys_DHW)
    return Finding(tuple(_of_stone(one, "stone", volume, middle) for one in found), mask_DHW)


def lesions_in_mask(
    volume: Volume,
    mask_DHW: Mask,
    structure: str,
    *,
    min_volume_mm3: float = 0.0,
    kidneys_DHW: Mask | None = None,
) -> Finding:
    """Return the connected parts of a mask (26 neighbours).

    Args:
        volume: what the mask was drawn on.
        mask_DHW: of one structure.
        structure: its name.
        min_volume_mm3: parts whose mask is smaller are left out of the list, not of the mask.
        kidneys_DHW: if known; they tell left from right.
    """
    labels_DHW, _ = components(mask_DHW)
    voxel_mm3 = float(np.prod(volume.spacing_mm))
    middle = _middle_mm(volume, kidneys_DHW)
    bright_DHW = np.zeros(mask_DHW.shape, dtype=bool)
    lesions = []
    for part, tight in enumerate(ndimage.find_objects(labels_DHW), start=1):
        box = _grown(tight, volume)
        part_DHW = labels_DHW[box] == part
        if np.count_nonzero(part_DHW) * voxel_mm3 < min_volume_mm3:
            continue
        if structure.casefold() in STONES and _is_bright(volume, part_DHW, box):
            bright_DHW[box] |= part_DHW
        else:
            lesions.append(_of_mask(volume, part_DHW, box, structure, middle))
    if bright_DHW.any():
        stones = measure_stones(volume.voxels_DHW, bright_DHW, volume.spacing_mm)
        lesions += [_of_stone(one, structure, volume, middle) for one in stones]
    lesions.sort(key=lambda lesion: -lesion.volume_mm3)
    return Finding(tuple(lesions), mask_DHW)


def _bright_parts(volume: Volume, kidneys_DHW: Mask, threshold_hu: float) -> Mask:
    """Return the voxels of the stones that `find_stones` measures, by its rule for what is one.

    Of each, those above half of its contrast, as it is measured.
    """
    voxels_DHW = volume.voxels_DHW
    region_DHW = kidney_region(kidneys_DHW, volume.spacing_mm)
    inside = voxels_DHW[region_DHW]
    tissue = inside[inside < threshold_hu].astype(np.float64)
    middle = float(np.median(tissue)) if len(tissue) else 0.0
    if len(tissue):
        noise = 1.4826 * float(np.median(np.abs(tissue - middle)))
        threshold_hu = max(threshold_hu, middle + NOISE_WIDTHS * noise)
    labels_DHW, num_parts = components(voxels_DHW >= threshold_hu)
    size = np.bincount(labels_DHW.ravel(), minlength=num_parts + 1)
    within = np.bincount(labels_DHW[region_DHW], minlength=num_parts + 1)
    is_stone = (size >= MIN_VOXELS) & (2 * within >= size)
    is_stone[0] = False
    mask_DHW = np.zeros(voxels_DHW.shape, dtype=bool)
    boxes = ndimage.find_objects(labels_DHW)
    for part in np.flatnonzero(is_stone):
        box = boxes[part - 1]
        part_DHW, values_DHW = labels_DHW[box] == part, voxels_DHW[box]
        half = (middle + float(np.percentile(values_DHW[part_DHW], 90))) / 2
        mask_DHW[box] |= part_DHW & (values_DHW >= half)
    return mask_DHW


def _is_bright(volume: Volume, part_DHW: Mask, box: tuple[slice, ...]) -> bool:
    """Return whether a part is a stone as `measure_stones` expects one: brighter than its place."""
    values_DHW = volume.voxels_DHW[box]
    away_mm_DHW = ndimage.distance_transform_edt(~part_DHW, sampling=volume.spacing_mm)
    beside_DHW = (away_mm_DHW > BESIDE_MM) & (away_mm_DHW <= 2 * MARGIN_MM)
    if not beside_DHW.any():
        return False
    contrast = float(values_DHW[part_DHW].mean()) - float(np.median(values_DHW[beside_DHW]))
    return contrast >= MIN_CONTRAST_HU


def _of_stone(stone: Stone, structure: str, volume: Volume, middle_mm: float | None) -> Lesion:
    return Lesion(
        structure=structure,
        side=_side(stone.centre_mm[2], middle_mm),
        diameter_mm=stone.diameter_mm,
        volume_mm3=stone.volume_mm3,
        mean_hu=stone.mean_hu,
        max_hu=stone.max_hu,
        centre_mm=_place(stone.centre_mm, volume),
        method="half-maximum",
    )


def _of_mask(
    volume: Volume,
    part_DHW: Mask,
    box: tuple[slice, ...],
    structure: str,
    middle_mm: float | None,
) -> Lesion:
    spacing = np.array(volume.spacing_mm)
    values = volume.voxels_DHW[box][part_DHW]
    start = np.array([side.start for side in box])
    centre = ((np.argwhere(part_DHW).mean(axis=0) + start) * spacing).tolist()
    return Lesion(
        structure=structure,
        side=_side(centre[2], middle_mm),
        diameter_mm=longest_distance(_faces(part_DHW) * spacing),
        volume_mm3=float(len(values) * spacing.prod()),
        mean_hu=float(values.mean()),
        max_hu=float(values.max()),
        centre_mm=_place(centre, volume),
        method="mask",
    )


def _faces(part_DHW: Mask) -> npt.NDArray[np.float64]:
    """Return (V, 3) the middles of the faces between a part and what it is not, in voxels."""
    padded_DHW = np.pad(part_DHW, 1).astype(np.int8)
    points = []
    for axis in range(3):
        place = np.argwhere(np.diff(padded_DHW, axis=axis)).astype(np.float64) - 1
        place[:, axis] += 0.5
        points.append(place)
    return np.concatenate(points)


def _grown(box: tuple[slice, ...], volume: Volume) -> tuple[slice, ...]:
    """Return a box with what surrounds it."""
    margin = [int(np.ceil(2 * MARGIN_MM / mm)) for mm in volume.spacing_mm]
    return tuple(
        slice(max(0, side.start - more), side.stop + more)
        for side, more in zip(box, margin, strict=True)
    )


def _place(centre_mm: Sequence[float], volume: Volume) -> Vector:
    """Return x, y, z of LPS of a place along D, H, W from voxel (0, 0, 0)."""
    x, y, z = (
        float(start + along)
        for start, along in zip(volume.origin_mm, list(centre_mm)[::-1], strict=True)
    )
    return x, y, z


def _middle_mm(volume: Volume, kidneys_DHW: Mask | None) -> float | None:
    """Return where left and right meet, along W from voxel 0; None where nobody can tell.

    Half-way between two kidneys, else in the middle of the body.
    """
    spacing_mm = volume.spacing_mm[2]
    if kidneys_DHW is not None:
        labels_DHW, num_parts = components(two_largest_components(kidneys_DHW))
        if num_parts == 2:
            centres = ndimage.center_of_mass(labels_DHW > 0, labels_DHW, [1, 2])
            return float(centres[0][2] + centres[1][2]) / 2 * spacing_mm
    width = volume.voxels_DHW.shape[2]
    body_W = (volume.voxels_DHW > BODY_HU).sum(axis=(0, 1))
    if width * spacing_mm < WHOLE_BODY_MM or not body_W.any():
        return None
    return float(np.average(np.arange(width), weights=body_W)) * spacing_mm


def _side(place_mm: float, middle_mm: float | None) -> Literal["left", "right"] | None:
    if middle_mm is None:
        return None
    return "left" if place_mm > middle_mm else "right"
