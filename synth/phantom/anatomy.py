"""The phantom's body from the dome of the diaphragm to the pelvic floor.

Coordinates are z (superior), y (posterior), x (left) in mm, z = 0 at the third lumbar vertebra;
legend: D, H, W. A body is drawn once and painted on any grid: round a stone, or slab by slab.
All shapes are painted in an undeformed body and bent together by a smooth random deformation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.synth.phantom.fields import (
    Canvas,
    Floats,
    Grid,
    Point,
    SmoothField,
    smooth_field,
)
from fedward.synth.phantom.organs import FAT, MUSCLE, Organs, draw_organs, paint_organs
from fedward.synth.phantom.skeleton import Bones, draw_bones, paint_bones

LOW: Point = (-236.0, -190.0, -230.0)
HIGH: Point = (150.0, 190.0, 230.0)
AIR_HU = -1000.0
BEND_MM = 3.0
"""Standard deviation of the deformation along each axis."""
SLACK_MM = 12.0


@dataclass(frozen=True, repr=False)
class Body:
    """What differs between two patients."""

    bones: Bones
    organs: Organs
    half_width_mm: float
    """To the outer face of the muscles at the waist."""
    half_depth_mm: float
    fat_mm: float
    """Under the skin, on average."""
    bends: tuple[SmoothField, SmoothField, SmoothField]
    fine: SmoothField
    coarse: SmoothField


def draw_body(rng: np.random.Generator, low: Point, high: Point, *, obstructed: float) -> Body:
    """Return a random body that can be painted between two corners.

    Nothing in it depends on the label or on the clinical table: only the stone may tell.

    Args:
        rng: its state decides.
        low: corner of the part that will be painted.
        high: the opposite corner.
        obstructed: as in `draw_organs`.
    """
    bones = draw_bones(rng)
    organs = draw_organs(rng, obstructed=obstructed)
    half_width = float(rng.uniform(138, 154))
    half_depth = float(rng.uniform(88, 98))
    fat = float(rng.uniform(9, 32))

    def bumps(period_mm: float) -> SmoothField:
        start = (low[0] - 5, low[1] - 5, low[2] - 5)
        stop = (high[0] + 5, high[1] + 5, high[2] + 5)
        return smooth_field(rng, start, stop, period_mm=period_mm)

    bends = (bumps(50.0), bumps(50.0), bumps(50.0))
    return Body(bones, organs, half_width, half_depth, fat, bends, bumps(4.0), bumps(18.0))


def paint_body(body: Body, grid: Grid, *, edge_mm: float) -> Canvas:
    """Return a canvas with everything but stones."""
    bends = [np.float32(BEND_MM) * bend.on(grid) for bend in body.bends]
    z_DHW = grid.z_mm[:, None, None] + bends[0]
    y_DHW = grid.y_mm[None, :, None] + bends[1]
    x_DHW = grid.x_mm[None, None, :] + bends[2]
    wall_DHW = _to_wall(body, z_DHW, y_DHW, x_DHW)
    fine_DHW, coarse_DHW = body.fine.on(grid), body.coarse.on(grid)
    canvas = Canvas(
        grid=grid, z_DHW=z_DHW, y_DHW=y_DHW, x_DHW=x_DHW,
        hu_DHW=np.full(grid.shape, AIR_HU, dtype=np.float32),
        fine_DHW=fine_DHW, coarse_DHW=coarse_DHW, edge_mm=edge_mm, slack_mm=SLACK_MM,
    )  # fmt: skip
    _layers(canvas, body, wall_DHW)
    paint_organs(canvas, body.organs)
    _lungs(canvas)
    paint_bones(canvas, body.bones, wall_DHW)
    # Whatever was painted past the skin is cut off; shapes need not know the habitus.
    outside = 1 - _inside(wall_DHW - _fat_mm(body, y_DHW, x_DHW), edge_mm)
    canvas.hu_DHW += outside * (np.float32(AIR_HU) - canvas.hu_DHW)
    _couch(canvas, body)
    return canvas


def in_bent_body(body: Body, point: Point) -> Point:
    """Return where a point of the undeformed body lies in the deformed one."""
    place = np.asarray(point, dtype=np.float32)
    for _ in range(4):
        here = Grid(place[0:1], place[1:2], place[2:3])
        bend = np.asarray([field.on(here)[0, 0, 0] for field in body.bends]) * BEND_MM
        place = np.asarray(np.asarray(point) - bend, dtype=np.float32)
    return float(place[0]), float(place[1]), float(place[2])


def _inside(distance_DHW: NDArray[np.floating], edge_mm: float) -> Floats:
    return np.asarray(np.clip(0.5 - distance_DHW / edge_mm, 0, 1), dtype=np.float32)


def _to_wall(body: Body, z_DHW: Floats, y_DHW: Floats, x_DHW: Floats) -> Floats:
    """Return the distance to the outer face of the muscle wall, below 0 inside it."""
    hips = 1 / (1 + np.exp((z_DHW + 105) / np.float32(22)))
    wide = np.float32(body.half_width_mm) + np.float32(18) * hips
    deep = np.float32(body.half_depth_mm) + np.float32(6) * hips
    radius = np.sqrt(y_DHW**2 + x_DHW**2) + np.float32(1e-3)
    level = ((np.abs(x_DHW) / wide) ** 2.3 + (np.abs(y_DHW) / deep) ** 2.3) ** (1 / 2.3)
    return np.asarray(radius - radius / np.maximum(level, 1e-3), dtype=np.float32)


def _fat_mm(body: Body, y_DHW: Floats, x_DHW: Floats) -> Floats:
    """Return the thickness of fat and skin: more at the back and the sides than in front."""
    radius = np.sqrt(y_DHW**2 + x_DHW**2) + np.float32(1)
    share = 0.9 + 0.3 * y_DHW / radius + 0.15 * (x_DHW / radius) ** 2
    return np.asarray(2.0 + np.float32(body.fat_mm) * share, dtype=np.float32)


def _layers(canvas: Canvas, body: Body, wall_DHW: Floats) -> None:
    """Lay skin, fat, muscle and the fat of the belly over each other."""
    fat_DHW = wall_DHW - _fat_mm(body, canvas.y_DHW, canvas.x_DHW)
    fine, coarse = canvas.fine_DHW, canvas.coarse_DHW
    skin = np.float32(20.0)
    hu_DHW = canvas.hu_DHW
    hu_DHW += _inside(fat_DHW, canvas.edge_mm) * (skin - hu_DHW)
    fat = np.float32(FAT.hu) + np.float32(FAT.fine_hu) * fine + np.float32(FAT.coarse_hu) * coarse
    hu_DHW += _inside(fat_DHW + 2, canvas.edge_mm) * (fat - hu_DHW)
    muscle = np.float32(MUSCLE.hu) + np.float32(MUSCLE.fine_hu) * fine
    hu_DHW += _inside(wall_DHW, canvas.edge_mm) * (muscle - hu_DHW)
    # Two fat planes between the three sheets of the wall, as between the oblique muscles.
    for depth in (5.0, 10.0):
        sheet = _inside(np.abs(wall_DHW + np.float32(depth)) - np.float32(0.5), canvas.edge_mm)
        hu_DHW += np.float32(0.7) * sheet * (fat - hu_DHW)
    inner_DHW = _inside(wall_DHW + 15, canvas.edge_mm)
    hu_DHW += inner_DHW * (fat - hu_DHW)
    canvas.inner_DHW = inner_DHW


def _lungs(canvas: Canvas) -> None:
    """Paint the bases of the lungs above the diaphragm."""
    if canvas.inner_DHW is None or canvas.grid.z_mm[-1] < 95:
        return
    z, y, x = canvas.z_DHW, canvas.y_DHW, canvas.x_DHW
    # A dome on each side, whose rim dips behind.
    across = (np.abs(x) - 75) / 70
    dome = 150 - 40 * across**2 - 45 * np.clip((y + 10) / 80, -0.6, 1.2) ** 2
    share = _inside(dome - z, canvas.edge_mm) * canvas.inner_DHW
    share *= _inside(34 - np.abs(x) - 0.1 * (y + 20), canvas.edge_mm)
    lung = np.float32(-850) + np.float32(35) * canvas.fine_DHW + np.float32(20) * canvas.coarse_DHW
    canvas.hu_DHW += share * (lung - canvas.hu_DHW)


def _couch(canvas: Canvas, body: Body) -> None:
    """Paint the scanner's table: two thin sheets with foam between them."""
    y = canvas.grid.y_mm[None, :, None] - np.float32(0.0006) * canvas.grid.x_mm[None, None, :] ** 2
    top = np.float32(body.half_depth_mm + 6 + 2 + body.fat_mm * 1.25 + 3)
    for offset, half_mm, hu in ((9.0, 9.0, -930.0), (0.0, 1.0, -60.0), (18.0, 1.0, -60.0)):
        share = _inside(np.abs(y - top - offset) - np.float32(half_mm), canvas.edge_mm)
        empty = canvas.hu_DHW < np.float32(-900)
        canvas.hu_DHW += np.where(empty, share, np.float32(0)) * (np.float32(hu) - canvas.hu_DHW)
