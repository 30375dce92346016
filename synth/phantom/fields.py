"""Grids in millimetres, smooth random fields on them, and painting with soft edges.

Legend: D depth (growing towards superior), H height (towards posterior), W width (towards the
patient's left); L, M, N knots of a lattice along D, H, W.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
"""z, y, x in mm: superior, posterior, left."""
Distance = Callable[[Floats, Floats, Floats], Floats]
"""Of coordinates z, y, x, in mm: below 0 inside, above 0 outside."""


@dataclass(frozen=True, repr=False)
class Grid:
    """The centres of a block of voxels, in mm, evenly spaced along each axis."""

    z_mm: Floats
    y_mm: Floats
    x_mm: Floats

    @property
    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Return z, y, x."""
        return self.z_mm, self.y_mm, self.x_mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return D, H, W."""
        return len(self.z_mm), len(self.y_mm), len(self.x_mm)


def steps(centre: float, count: int, step_mm: float) -> Floats:
    """Return `count` positions round `centre`, `step_mm` apart."""
    offsets = (np.arange(count) - (count - 1) / 2) * step_mm
    return np.asarray(centre + offsets, dtype=np.float32)


def subdivided(axis_mm: Floats, step_mm: float, parts: int) -> Floats:
    """Return the centres of `parts` equal parts of each voxel of an axis."""
    offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * step_mm
    return np.asarray((axis_mm[:, None] + offsets[None, :]).ravel(), dtype=np.float32)


@dataclass(frozen=True, repr=False)
class SmoothField:
    """A random function of space: cubic B-splines over a lattice of normal numbers.

    The same function on every grid, so that an abdomen can be painted slab by slab. Mean 0,
    standard deviation about 1. Source: ours (value noise with a cubic kernel).
    """

    lattice_LMN: Floats
    start_mm: Point
    period_mm: float

    def on(self, grid: Grid) -> Floats:
        """Return (D, H, W), the field's values on a grid; its lattice must cover the grid."""
        values = self.lattice_LMN
        weights = []
        for axis, start in zip(grid.axes, self.start_mm, strict=True):
            knots = (axis - start) / self.period_mm
            first = max(int(np.floor(knots.min())) - 1, 0)
            last = int(np.floor(knots.max())) + 3
            values = np.moveaxis(values[first:last], 0, -1)
            weights.append(_spline_weights(knots - first, values.shape[-1]))
        for matrix in weights:
            values = np.moveaxis(values, 0, -1) @ matrix.T
        return np.ascontiguousarray(values)


# Of a sum of normal numbers with the weights of a cubic B-spline: the mean over the positions of
# the root of the sum of the squared weights, cubed for three axes.
_SPLINE_SD = 0.69**3


def _spline_weights(knots: Floats, count: int) -> Floats:
    distance = np.abs(knots[:, None] - np.arange(count, dtype=np.float32)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far), dtype=np.float32)


def smooth_field(
    rng: np.random.Generator, low: Point, high: Point, *, period_mm: float
) -> SmoothField:
    """Return a random field that covers a box, with bumps of about `period_mm`."""
    counts = [int(np.ceil((b - a) / period_mm)) + 5 for a, b in zip(low, high, strict=True)]
    lattice = rng.standard_normal(counts, dtype=np.float32) / np.float32(_SPLINE_SD)
    start = (low[0] - 2 * period_mm, low[1] - 2 * period_mm, low[2] - 2 * period_mm)
    return SmoothField(lattice, start, period_mm)


@dataclass(frozen=True)
class Tissue:
    """A mean value in HU, and how far it wanders in fine (4 mm) and coarse (18 mm) patches."""

    hu: float
    fine_hu: float = 0.0
    coarse_hu: float = 0.0


@dataclass(repr=False)
class Canvas:
    """A block of tissue that is being painted."""

    grid: Grid
    z_DHW: Floats
    """Where the voxels are in the undeformed body: the shapes are painted there."""
    y_DHW: Floats
    x_DHW: Floats
    hu_DHW: Floats
    fine_DHW: Floats
    coarse_DHW: Floats
    edge_mm: float
    """Width of a soft edge: about a voxel."""
    slack_mm: float
    """How far the deformation moves a point at most."""
    inner_DHW: Floats | None = field(default=None)
    """How much of each voxel is inside the body's wall, where this matters."""

    def paint(
        self, distance: Distance, tissue: Tissue, *, low: Point, high: Point, inner: bool = False
    ) -> None:
        """Cover what lies inside `distance` with a tissue; look only between `low` and `high`.

        Args:
            distance: to the shape's surface.
            tissue: what is inside.
            low: corner of a box round the shape.
            high: the opposite corner.
            inner: leave alone what is not inside the body's wall.
        """
        part = self.part(low, high)
        if part is None:
            return
        share = self.share(distance, part)
        if inner and self.inner_DHW is not None:
            share *= self.inner_DHW[part]
        value: Floats | np.float32 = np.float32(tissue.hu)
        if tissue.fine_hu:
            value = value + np.float32(tissue.fine_hu) * self.fine_DHW[part]
        if tissue.coarse_hu:
            value = value + np.float32(tissue.coarse_hu) * self.coarse_DHW[part]
        self.hu_DHW[part] += share * (value - self.hu_DHW[part])

    def share(self, distance: Distance, part: tuple[slice, slice, slice]) -> Floats:
        """Return how much of each voxel of a part is inside, 0 to 1."""
        inside = distance(self.z_DHW[part], self.y_DHW[part], self.x_DHW[part])
        inside *= np.float32(-1 / self.edge_mm)
        inside += np.float32(0.5)
        return np.clip(inside, 0, 1, out=inside)

    def part(self, low: Point, high: Point) -> tuple[slice, slice, slice] | None:
        """Return the indices between two corners, or None where the canvas has none of them."""
        slices = []
        margin = self.slack_mm + self.edge_mm
        for axis, start, stop in zip(self.grid.axes, low, high, strict=True):
            first, last = np.searchsorted(axis, (start - margin, stop + margin))
            if first >= last:
                return None
            slices.append(slice(int(first), int(last)))
        return slices[0], slices[1], slices[2]


def ellipsoid(centre: Point, radii: Point, *, tilt: Point = (0.0, 0.0, 0.0)) -> Distance:
    """Return the distance to an ellipsoid; exact on its surface, approximate elsewhere.

    Args:
        centre: of the ellipsoid.
        radii: half axes along z, y, x.
        tilt: how far y moves per z, x per z and x per y: a shear, for small angles a turn.
    """
    scale = float(np.cbrt(radii[0] * radii[1] * radii[2]))
    y_of_z, x_of_z, x_of_y = tilt

    def distance(z: Floats, y: Floats, x: Floats) -> Floats:
        dz = z - np.float32(centre[0])
        dy = y - np.float32(centre[1])
        dx = x - np.float32(centre[2])
        if y_of_z:
            dy = dy - np.float32(y_of_z) * dz
        if x_of_z or x_of_y:
            dx = dx - np.float32(x_of_z) * dz - np.float32(x_of_y) * dy
        squared = (dz / radii[0]) ** 2 + (dy / radii[1]) ** 2 + (dx / radii[2]) ** 2
        return np.asarray((np.sqrt(squared) - 1) * np.float32(scale), dtype=np.float32)

    return distance


def capsule(start: Point, stop: Point, radius_mm: float, stop_radius_mm: float) -> Distance:
    """Return the distance to a rod with round ends whose radius changes along it."""
    ax = np.asarray(stop, dtype=np.float32) - np.asarray(start, dtype=np.float32)
    length_squared = np.float32(max(float(ax @ ax), 1e-6))

    def distance(z: Floats, y: Floats, x: Floats) -> Floats:
        dz = z - np.float32(start[0])
        dy = y - np.float32(start[1])
        dx = x - np.float32(start[2])
        along = np.clip((dz * ax[0] + dy * ax[1] + dx * ax[2]) / length_squared, 0, 1)
        dz -= along * ax[0]
        dy -= along * ax[1]
        dx -= along * ax[2]
        radius = np.float32(radius_mm) + along * np.float32(stop_radius_mm - radius_mm)
        return np.asarray(np.sqrt(dz**2 + dy**2 + dx**2) - radius, dtype=np.float32)

    return distance


def paint_tube(canvas: Canvas, points: list[Point], radii_mm: list[float], tissue: Tissue) -> None:
    """Paint a bent tube through some points."""
    for k in range(len(points) - 1):
        widest = max(radii_mm[k], radii_mm[k + 1])
        low = [min(a, b) - widest for a, b in zip(points[k], points[k + 1], strict=True)]
        high = [max(a, b) + widest for a, b in zip(points[k], points[k + 1], strict=True)]
        rod = capsule(points[k], points[k + 1], radii_mm[k], radii_mm[k + 1])
        canvas.paint(rod, tissue, low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))


def paint_ellipsoid(  # noqa: PLR0913 - a shape has four parts
    canvas: Canvas,
    centre: Point,
    radii: Point,
    tissue: Tissue,
    *,
    tilt: Point = (0.0, 0.0, 0.0),
    inner: bool = False,
) -> None:
    """Paint an ellipsoid; `inner` as in `Canvas.paint`."""
    low, high = ellipsoid_box(centre, radii, tilt)
    canvas.paint(ellipsoid(centre, radii, tilt=tilt), tissue, low=low, high=high, inner=inner)


def ellipsoid_box(centre: Point, radii: Point, tilt: Point) -> tuple[Point, Point]:
    """Return two corners between which a tilted ellipsoid lies."""
    ry = radii[1] + abs(tilt[0]) * radii[0]
    rx = radii[2] + abs(tilt[1]) * radii[0] + abs(tilt[2]) * ry
    low = (centre[0] - radii[0], centre[1] - ry, centre[2] - rx)
    return low, (centre[0] + radii[0], centre[1] + ry, centre[2] + rx)
