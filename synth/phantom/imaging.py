"""From a painted anatomy with lesions to the slices that a scanner stores.

Legend: D slices, H rows, W columns; S parts of slices, which a thick slice averages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.synth.phantom.fields import Canvas, Floats, Grid, Point, steps, subdivided
from fedward.synth.phantom.lesions import Shape, add_lesion
from fedward.synth.phantom.scanner import Scanner, blurred, read_out

Painter = Callable[[Grid, float], Canvas]
"""Of a grid and the width of a soft edge in mm."""
Organ = Callable[[Canvas], Floats]
"""How much of each voxel of a canvas an organ takes, (D, H, W) from 0 to 1."""
PART_MM = 1.25
"""Slices thicker than this are painted in parts."""
CHUNK_VOXELS = 3_000_000


@dataclass(frozen=True, repr=False)
class Image:
    """A volume with its mask, as in `Phantom`."""

    voxels_DHW: NDArray[np.int16]
    mask_DHW: NDArray[np.uint8]
    grid: Grid


def grid_of(scanner: Scanner, centre: Point, extent_mm: Point) -> Grid:
    """Return a scanner's voxels round a point; at least one along each axis."""
    spacing = (scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm)
    counts = [max(round(e / s), 1) for e, s in zip(extent_mm, spacing, strict=True)]
    axes = [steps(c, n, s) for c, n, s in zip(centre, counts, spacing, strict=True)]
    return Grid(axes[0], axes[1], axes[2])


def imaged(  # noqa: PLR0913 - what is scanned, with what, and what is labelled
    painter: Painter,
    lesions: Sequence[Shape],
    grid: Grid,
    *,
    scanner: Scanner,
    rng: np.random.Generator,
    organ: Organ | None = None,
) -> Image:
    """Return the image and its mask: lesions get the last number, an organ the one before.

    Args:
        painter: paints everything but lesions.
        lesions: what is put on top.
        grid: the voxels that the scanner stores.
        scanner: blur, slices and noise.
        rng: of the noise.
        organ: labelled 1, below lesions labelled 2; None: lesions are labelled 1.
    """
    depth = grid.shape[0]
    voxels_DHW = np.empty(grid.shape, dtype=np.int16)
    mask_DHW = np.zeros(grid.shape, dtype=np.uint8)
    best = np.zeros(len(lesions))
    parts = int(np.ceil(scanner.slice_mm / PART_MM - 1e-6))
    chunk = max(CHUNK_VOXELS // (grid.shape[1] * grid.shape[2] * parts), 1)
    number = 1 if organ is None else 2
    peaks: list[tuple[int, int, int] | None] = [None] * len(lesions)
    for first in range(0, depth, chunk):
        here = slice(first, min(first + chunk, depth))
        fine = Grid(subdivided(grid.z_mm[here], scanner.slice_mm, parts), grid.y_mm, grid.x_mm)
        hu, organ_share, shares = _slab(painter, lesions, fine, scanner, parts, organ)
        voxels_DHW[here] = read_out(blurred(hu, scanner), scanner, rng)
        if organ_share is not None:
            mask_DHW[here][organ_share >= 0.5] = 1
        for k, share in enumerate(shares):
            if share.shape[1:] == grid.shape[1:]:
                mask_DHW[here][share >= 0.5] = number
            if share.max() > best[k]:
                best[k] = share.max()
                d, h, w = np.unravel_index(int(share.argmax()), share.shape)
                peaks[k] = (int(d) + first, int(h), int(w))
    for peak in peaks:
        # A stone thinner than half a slice fills no voxel by half, yet it is there.
        if peak is not None:
            mask_DHW[peak] = number
    return Image(voxels_DHW, mask_DHW, grid)


def _slab(  # noqa: PLR0913 - a piece of `imaged`
    painter: Painter,
    lesions: Sequence[Shape],
    fine: Grid,
    scanner: Scanner,
    parts: int,
    organ: Organ | None,
) -> tuple[Floats, Floats | None, list[Floats]]:
    part_mm = scanner.slice_mm / parts
    canvas = painter(fine, max(scanner.pixel_mm, part_mm))
    spacing = (part_mm, scanner.pixel_mm, scanner.pixel_mm)
    organ_share = None if organ is None else _thick(organ(canvas), parts)
    shares = []
    for lesion in lesions:
        share = np.zeros(fine.shape, dtype=np.float32)
        add_lesion(lesion, fine, canvas.hu_DHW, share, spacing_mm=spacing)
        if share.any():
            shares.append(_thick(share, parts))
        else:
            shares.append(np.zeros((fine.shape[0] // parts, 1, 1), dtype=np.float32))
    return _thick(canvas.hu_DHW, parts), organ_share, shares


def _thick(values_SHW: Floats, parts: int) -> Floats:
    if parts == 1:
        return values_SHW
    s, h, w = values_SHW.shape
    return np.asarray(values_SHW.reshape(s // parts, parts, h, w).mean(axis=1), dtype=np.float32)
