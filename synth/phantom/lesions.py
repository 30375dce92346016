"""Stones and nodules on voxels: drawn finely, averaged over each voxel, measured without a scanner.

Legend: D, H, W voxels of a grid; P points; 3 coordinates z, y, x.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from fedward.synth.phantom.fields import Floats, Grid, Point, steps, subdivided

FINE_MM = 0.4
"""Lesions are drawn on voxels at most this large, then averaged."""


class Shape(Protocol):
    """A lesion that can be drawn on any grid."""

    @property
    def centre(self) -> Point:
        """Return its middle."""

    @property
    def reach_mm(self) -> float:
        """Return the distance from the middle that no point of it exceeds."""

    def on(self, grid: Grid) -> tuple[Floats, Floats]:
        """Return (D, H, W) whether each point is inside (0 or 1), and its value there, HU."""


@dataclass(frozen=True)
class Measures:
    """What is true of a lesion, on voxels of about `FINE_MM`."""

    diameter_mm: float
    volume_mm3: float
    mean_hu: float
    sd_hu: float
    centre: Point


def own_grid(centre: Point, reach_mm: float) -> tuple[Grid, float]:
    """Return a fine grid round a lesion and its step in mm."""
    count = int(min(np.ceil(2 * reach_mm / FINE_MM), 110))
    step = 2 * reach_mm / count
    z, y, x = centre
    return Grid(steps(z, count, step), steps(y, count, step), steps(x, count, step)), step


def measured(shape: Shape) -> Measures:
    """Return a lesion's true size, values and centre of mass, without a scanner.

    The diameter is the longest distance between two corners of voxels (max Feret).
    """
    grid, step = own_grid(shape.centre, shape.reach_mm)
    inside, hu = shape.on(grid)
    index_P3 = np.argwhere(inside > 0)
    values = hu[inside > 0]
    middle = index_P3.mean(axis=0)
    # Half a voxel outwards at each end, which is what the faces of two voxels add.
    hull_P3 = index_P3[ConvexHull(index_P3).vertices] * step
    return Measures(
        diameter_mm=float(pdist(hull_P3).max()) + step,
        volume_mm3=float(len(index_P3) * step**3),
        mean_hu=float(values.mean()),
        sd_hu=float(values.std()),
        centre=(
            float(grid.z_mm[0] + middle[0] * step),
            float(grid.y_mm[0] + middle[1] * step),
            float(grid.x_mm[0] + middle[2] * step),
        ),
    )


def add_lesion(
    shape: Shape, grid: Grid, hu_DHW: Floats, share_DHW: Floats, *, spacing_mm: Point
) -> None:
    """Put a lesion into a volume, averaged over each voxel; both arrays change in place.

    Args:
        shape: which.
        grid: centres of the voxels.
        hu_DHW: what is there.
        share_DHW: how much of each voxel is lesion so far.
        spacing_mm: size of a voxel along D, H, W.
    """
    slices, axes, parts = [], [], []
    for axis, middle, step in zip(grid.axes, shape.centre, spacing_mm, strict=True):
        reach = shape.reach_mm + step
        first, last = np.searchsorted(axis, (middle - reach, middle + reach))
        if first >= last:
            return
        slices.append(slice(int(first), int(last)))
        parts.append(int(np.ceil(step / FINE_MM)))
        axes.append(subdivided(axis[first:last], step, parts[-1]))
    inside, hu = shape.on(Grid(axes[0], axes[1], axes[2]))
    share = _averaged(inside, parts)
    held = _averaged(inside * hu, parts)
    box = (slices[0], slices[1], slices[2])
    hu_DHW[box] = hu_DHW[box] * (1 - share) + held
    share_DHW[box] = np.maximum(share_DHW[box], share)


def _averaged(values: Floats, parts: list[int]) -> NDArray[np.float32]:
    d, h, w = (size // part for size, part in zip(values.shape, parts, strict=True))
    blocks = values.reshape(d, parts[0], h, parts[1], w, parts[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)
