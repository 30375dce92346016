"""Lung nodules: size, ground glass and solid core, lucency, pleural retraction, invasiveness.

Legend: D slices, H rows, W columns. Coordinates are z (superior), y (posterior), x (left) in mm;
the nodule's middle is near 0. The region is painted as if it lay in the left lung, and mirrored for
the right one.

Signs of invasive adenocarcinoma - larger, denser, a larger solid part, bubble lucency, spicules,
pleural retraction - after Qi et al. 2019 (J Thorac Dis 11:4835, PMC6940263) and Wang et al. 2018
(Iran J Radiol 15:e61846: cut-offs of the mean value at -464 HU and of the solid part at 5.5 mm
between minimally invasive and invasive ones). Frequencies are ours.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedward.synth.phantom.clinical import nodule_row
from fedward.synth.phantom.fields import (
    Canvas,
    Floats,
    Grid,
    Point,
    SmoothField,
    Tissue,
    paint_tube,
    smooth_field,
)
from fedward.synth.phantom.imaging import grid_of, imaged
from fedward.synth.phantom.lesions import measured
from fedward.synth.phantom.skeleton import CORTEX
from fedward.synth.phantom.states import draw_states
from fedward.synth.phantom.truth import CaseSpec, Lesion, Phantom

INVASIVE_SHARE = 0.5
LUNG = Tissue(-862.0, 26.0, 12.0)
"""Inspired lung, -850 to -910 HU (Prokop 2003)."""
VESSEL = Tissue(42.0)
FAT = Tissue(-103.0, 9.0)
MUSCLE = Tissue(50.0, 9.0)
SPICULE = Tissue(-150.0)
BEND_MM = 1.5


@dataclass(frozen=True, repr=False)
class Nodule:
    """One nodule."""

    centre: Point
    radii: Point
    bumps: SmoothField
    patches: SmoothField
    roughness: float
    glass_hu: float
    solid_hu: float
    solid_share: float
    """Radius of the solid core as a share of the nodule's; 0 pure ground glass."""
    bubbles: tuple[tuple[Point, float], ...]
    """Centre and radius of each air bubble."""
    retraction: bool

    @property
    def reach_mm(self) -> float:
        """Return the distance from the middle that no point of it exceeds."""
        return max(self.radii) * (1 + 3 * self.roughness) + 1.5

    @property
    def composition(self) -> str:
        """Return the name that radiologists give: by its solid share."""
        if self.solid_share < 0.2:
            return "ground-glass"
        return "solid" if self.solid_share > 0.9 else "part-solid"

    def on(self, grid: Grid) -> tuple[Floats, Floats]:
        """Return (D, H, W) whether each point is nodule (0 or 1), and what it holds there, HU."""
        dz = (grid.z_mm - np.float32(self.centre[0]))[:, None, None]
        dy = (grid.y_mm - np.float32(self.centre[1]))[None, :, None]
        dx = (grid.x_mm - np.float32(self.centre[2]))[None, None, :]
        level = np.sqrt((dz / self.radii[0]) ** 2 + (dy / self.radii[1]) ** 2
                        + (dx / self.radii[2]) ** 2)  # fmt: skip
        level = level * (1 + np.float32(self.roughness) * np.clip(self.bumps.on(grid), -2, 2))
        patches = self.patches.on(grid)
        core = np.clip((np.float32(self.solid_share) - level) * 6 + np.float32(0.5), 0, 1)
        if self.solid_share < 0.2:
            core = np.zeros_like(core)
        glass = np.float32(self.glass_hu) + np.float32(55) * patches
        hu = glass + core * (np.float32(self.solid_hu) + np.float32(18) * patches - glass)
        for (z, y, x), radius in self.bubbles:
            away = np.sqrt((dz - np.float32(z)) ** 2 + (dy - np.float32(y)) ** 2
                           + (dx - np.float32(x)) ** 2)  # fmt: skip
            hu = np.where(away < radius, np.float32(-900), hu)
        return np.asarray(level < 1, dtype=np.float32), np.asarray(hu, dtype=np.float32)


@dataclass(frozen=True, repr=False)
class Chest:
    """What lies round the nodule."""

    pleura_mm: float
    """From the nodule's middle to the pleura, along x."""
    bow_mm: float
    """Radius of the chest wall."""
    rib_start_mm: float
    rib_drop: float
    vessels: tuple[tuple[tuple[Point, ...], tuple[float, ...]], ...]
    bronchi: tuple[tuple[Point, Point, float], ...]
    fissure_mm: float
    fat_mm: float
    fine: SmoothField
    coarse: SmoothField
    bend: SmoothField


def nodule_case(spec: CaseSpec, rng: np.random.Generator) -> Phantom:
    """Return the region round one nodule."""
    states = draw_states(rng, spec.labels_from, INVASIVE_SHARE)
    extent = float(spec.size_mm)
    nodule = _draw_nodule(rng, invasive=states.image, largest_mm=extent * 0.45)
    chest = _draw_chest(rng, nodule, extent)
    shift = rng.uniform(-0.06, 0.06, size=3) * extent
    grid = grid_of(spec.scanner, (float(shift[0]), float(shift[1]), float(shift[2])), (extent,) * 3)
    image = imaged(
        lambda part, edge_mm: _paint_chest(chest, nodule, part, edge_mm),
        [nodule], grid, scanner=spec.scanner, rng=rng,
    )  # fmt: skip
    row = nodule_row(
        rng, invasive=states.table, lucency=bool(nodule.bubbles), retraction=nodule.retraction,
        missing=spec.missing,
    )  # fmt: skip
    left = bool(rng.random() < 0.45)
    size = measured(nodule)
    z, y, x = size.centre
    facing = 1 if left else -1
    x_first = float(grid.x_mm[0]) if left else -float(grid.x_mm[-1])
    scanner = spec.scanner
    return Phantom(
        voxels_DHW=np.ascontiguousarray(image.voxels_DHW[:, :, ::facing]),
        mask_DHW=np.ascontiguousarray(image.mask_DHW[:, :, ::facing]),
        spacing_mm=(scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm),
        origin_mm=(x_first, float(grid.y_mm[0]), float(grid.z_mm[0])),
        structures=("nodule",),
        clinical=row,
        label=int(states.label),
        lesions=(
            Lesion(
                structure="nodule", composition=nodule.composition,
                side="left" if left else "right", place="lung", diameter_mm=size.diameter_mm,
                volume_mm3=size.volume_mm3, mean_hu=size.mean_hu, sd_hu=size.sd_hu,
                centre_mm=(facing * x, y, z),
            ),
        ),
    )  # fmt: skip


def _draw_nodule(rng: np.random.Generator, *, invasive: bool, largest_mm: float) -> Nodule:
    ill = float(invasive)
    diameter = float(np.clip(rng.lognormal(np.log(11 + 3.5 * ill), 0.3), 6, largest_mm))
    half = diameter / 2
    radii = half * np.asarray([1.0, *rng.uniform(0.75, 1.0, size=2)])
    solid = float(rng.beta(1.2 + 1.1 * ill, 1.9 - 0.6 * ill))
    reach = diameter + 4
    low, high = (-reach, -reach, -reach), (reach, reach, reach)
    bubbles = []
    if rng.random() < 0.2 + 0.3 * ill:
        for _ in range(int(rng.integers(1, 4))):
            away = rng.normal(0, 0.28 * half, size=3)
            bubble = (float(away[0]), float(away[1]), float(away[2]))
            bubbles.append((bubble, float(rng.uniform(1.0, 1.9))))
    return Nodule(
        centre=(0.0, 0.0, 0.0),
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        bumps=smooth_field(rng, low, high, period_mm=max(1.6, 0.25 * diameter)),
        patches=smooth_field(rng, low, high, period_mm=2.4),
        roughness=float(rng.uniform(0.05, 0.12) + 0.05 * ill * rng.random()),
        glass_hu=float(rng.normal(-610 + 40 * ill, 60)),
        solid_hu=float(rng.normal(10 + 10 * ill, 25)),
        solid_share=0.0 if solid < 0.2 else min(solid * 1.05, 1.0),
        bubbles=tuple(bubbles),
        retraction=bool(rng.random() < 0.2 + 0.33 * ill),
    )


def _draw_chest(rng: np.random.Generator, nodule: Nodule, extent_mm: float) -> Chest:
    half = extent_mm * 0.56 + 3
    edge = max(nodule.radii)
    away = float(rng.uniform(4, 12) if nodule.retraction else rng.uniform(5, 30))
    low, high = (-half - 6, -half - 6, -half - 6), (half + 6, half + 6, half + 6)
    pleura = edge + away
    vessels = []
    for _ in range(int(34 * (extent_mm / 64) ** 2)):
        place = np.asarray([rng.uniform(-half, half), rng.uniform(-half, half), -half - 4])
        heading = np.asarray([rng.normal(0, 0.6), rng.normal(0, 0.6), 1.0])
        radius = float(rng.uniform(0.7, 2.1))
        points, radii = [place], [radius]
        while place[2] < min(pleura - 8, half) and radius > 0.35:
            place = place + heading / np.linalg.norm(heading) * 7
            heading = heading + rng.normal(0, 0.35, size=3)
            radius *= 0.85
            points.append(place)
            radii.append(radius)
        corners = tuple((float(p[0]), float(p[1]), float(p[2])) for p in points)
        if _clear_of(corners, edge + 2):
            vessels.append((corners, tuple(radii)))
    bronchi = []
    for _ in range(2):
        start = (float(rng.uniform(-half, half)), float(rng.uniform(-half, half)), -half)
        stop = (start[0] * 0.8, start[1] * 0.8, float(min(pleura - 14, 0.0)))
        if _clear_of((start, stop), edge + 4):
            bronchi.append((start, stop, float(rng.uniform(1.4, 2.2))))
    return Chest(
        pleura_mm=pleura, bow_mm=float(rng.uniform(75, 110)),
        rib_start_mm=float(rng.uniform(0, 26)), rib_drop=float(rng.uniform(0.1, 0.45)),
        vessels=tuple(vessels), bronchi=tuple(bronchi),
        fissure_mm=float(rng.choice((-1.0, 1.0)) * rng.uniform(edge + 6, edge + 30)),
        fat_mm=float(rng.uniform(5, 20)),
        fine=smooth_field(rng, low, high, period_mm=3.0),
        coarse=smooth_field(rng, low, high, period_mm=14.0),
        bend=smooth_field(rng, low, high, period_mm=30.0),
    )  # fmt: skip


def _clear_of(points: tuple[Point, ...], distance_mm: float) -> bool:
    for start, stop in pairwise(points):
        for share in np.linspace(0, 1, 8):
            at = np.asarray(start) + share * (np.asarray(stop) - np.asarray(start))
            if float(np.linalg.norm(at)) < distance_mm:
                return False
    return True


def _paint_chest(chest: Chest, nodule: Nodule, grid: Grid, edge_mm: float) -> Canvas:
    fine_DHW, coarse_DHW = chest.fine.on(grid), chest.coarse.on(grid)
    bend_DHW = np.float32(BEND_MM) * chest.bend.on(grid)
    zeros = np.zeros(grid.shape, dtype=np.float32)
    canvas = Canvas(
        grid=grid, z_DHW=grid.z_mm[:, None, None] + zeros,
        y_DHW=grid.y_mm[None, :, None] + zeros, x_DHW=grid.x_mm[None, None, :] + zeros,
        hu_DHW=np.float32(LUNG.hu) + np.float32(LUNG.fine_hu) * fine_DHW
        + np.float32(LUNG.coarse_hu) * coarse_DHW,
        fine_DHW=fine_DHW, coarse_DHW=coarse_DHW, edge_mm=edge_mm, slack_mm=0.5,
    )  # fmt: skip
    slope = canvas.y_DHW + np.float32(0.5) * canvas.z_DHW - np.float32(chest.fissure_mm)
    _lay(canvas, np.abs(slope + bend_DHW) - np.float32(0.35), Tissue(-450.0))
    for points, radii in chest.vessels:
        paint_tube(canvas, list(points), list(radii), VESSEL)
    for start, stop, radius in chest.bronchi:
        paint_tube(canvas, [start, stop], [radius + 1.0, radius * 0.7 + 0.8], Tissue(-60.0))
        paint_tube(canvas, [start, stop], [radius, radius * 0.7], Tissue(-980.0))
    if nodule.retraction:
        _retract(canvas, chest, nodule)
    _wall(canvas, chest, nodule, bend_DHW)
    return canvas


def _retract(canvas: Canvas, chest: Chest, nodule: Nodule) -> None:
    """Paint strands from the nodule to the pleura."""
    start = max(nodule.radii) * 0.7
    for angle in (-0.45, 0.0, 0.5):
        stop = (chest.pleura_mm * 0.5 * angle, chest.pleura_mm * 0.4 * angle, chest.pleura_mm)
        root = (start * angle * 0.5, start * angle * 0.4, start)
        paint_tube(canvas, [root, stop], [1.3, 0.9], SPICULE)


def _wall(canvas: Canvas, chest: Chest, nodule: Nodule, bend_DHW: Floats) -> None:
    """Paint the chest wall: muscle between ribs, fat and skin."""
    across = np.sqrt(canvas.y_DHW**2 + np.float32(0.3) * canvas.z_DHW**2)
    depth = canvas.x_DHW - np.float32(chest.pleura_mm) + across**2 / np.float32(2 * chest.bow_mm)
    depth += bend_DHW
    if nodule.retraction:
        # The pleura is drawn in like a tent.
        near = np.exp(-(canvas.y_DHW**2 + canvas.z_DHW**2) / np.float32(2 * 4.5**2))
        depth += np.float32(min(0.45 * (chest.pleura_mm - max(nodule.radii)), 5.0)) * near
    _lay(canvas, -depth, MUSCLE)
    _lay(canvas, np.float32(13) - depth, FAT)
    outer = np.float32(28 + chest.fat_mm) - depth
    _lay(canvas, np.abs(depth - 21) - np.float32(5), MUSCLE)
    rising = canvas.z_DHW - np.float32(chest.rib_start_mm)
    rising += np.float32(chest.rib_drop) * canvas.y_DHW
    spaced = (rising + 13) % np.float32(26) - 13
    oval = np.sqrt(((depth - 6) / np.float32(0.6)) ** 2 + spaced**2) - np.float32(6.0)
    _lay(canvas, oval, CORTEX)
    _lay(canvas, oval + 2, Tissue(230.0, 40.0))
    _lay(canvas, outer, Tissue(25.0))
    _lay(canvas, outer + 2, Tissue(-1000.0))


def _lay(
    canvas: Canvas, distance_DHW: NDArray[np.floating], tissue: Tissue, *, share: float = 1.0
) -> None:
    inside = np.clip(np.float32(0.5) - distance_DHW / np.float32(canvas.edge_mm), 0, 1)
    value = np.float32(tissue.hu) + np.float32(tissue.fine_hu) * canvas.fine_DHW
    canvas.hu_DHW += np.float32(share) * inside * (value - canvas.hu_DHW)
