"""Spine, ribs and pelvis of the phantom's body.

Coordinates are z (superior), y (posterior), x (left) in mm; the middle of the third lumbar
vertebra is at z = 0. Legend: D depth, H height, W width. Sizes are an adult's, rounded; source:
ours, after anatomical atlases. Values in HU: cortical bone several hundreds to over 1,000,
cancellous bone 100 to 300 (Prokop, Spiral and Multislice CT of the Body, 2003).
"""

from dataclasses import dataclass

import numpy as np

from fedward.synth.phantom.fields import (
    Canvas,
    Distance,
    Floats,
    Point,
    Tissue,
    capsule,
    ellipsoid,
    paint_ellipsoid,
)

CORTEX = Tissue(650.0, 60.0)
DISC = Tissue(85.0, 8.0)
CARTILAGE = Tissue(60.0, 5.0)
LEVEL_MM = 35.0
"""From one vertebra to the next."""
LEVELS = range(-2, 7)
"""L5 to T9, counted from L3."""


@dataclass(frozen=True)
class Bones:
    """What differs between the skeletons of two patients."""

    marrow_hu: float
    """Of the vertebrae, 80 (old) to 240 (young); drawn without regard to the table's age."""
    lordosis_mm: float
    rib_drop_mm: float
    """How far a rib falls from the spine to the side of the body."""

    @property
    def marrow(self) -> Tissue:
        """Return cancellous bone."""
        return Tissue(self.marrow_hu, 45.0, 15.0)


def draw_bones(rng: np.random.Generator) -> Bones:
    """Return a random skeleton."""
    return Bones(
        marrow_hu=float(rng.uniform(90, 230)),
        lordosis_mm=float(rng.uniform(6, 13)),
        rib_drop_mm=float(rng.uniform(90, 125)),
    )


def paint_bones(canvas: Canvas, bones: Bones, wall_DHW: Floats) -> None:
    """Paint spine, ribs and pelvis.

    Args:
        canvas: where.
        bones: of this patient.
        wall_DHW: distance to the outer face of the body's muscle wall, mm, below 0 inside.
    """
    _spine(canvas, bones)
    _sacrum(canvas, bones)
    for side in (-1.0, 1.0):
        _ribs(canvas, bones, wall_DHW, side)
        _half_pelvis(canvas, bones, side)


def spine_y_mm(z: Floats | float, bones: Bones) -> Floats:
    """Return where the middle of the vertebral bodies is at a height."""
    return np.asarray(20 - bones.lordosis_mm * np.cos(np.asarray(z) / 75), dtype=np.float32)


def _bone(
    canvas: Canvas, shape: Distance, marrow: Tissue, *, box: tuple[Point, Point], shell_mm: float
) -> None:
    low, high = box
    canvas.paint(shape, CORTEX, low=low, high=high)

    def core(z: Floats, y: Floats, x: Floats) -> Floats:
        return shape(z, y, x) + np.float32(shell_mm)

    canvas.paint(core, marrow, low=low, high=high)


def _rod(canvas: Canvas, start: Point, stop: Point, *, radius_mm: float, marrow: Tissue) -> None:
    low = tuple(min(a, b) - radius_mm for a, b in zip(start, stop, strict=True))
    high = tuple(max(a, b) + radius_mm for a, b in zip(start, stop, strict=True))
    shape = capsule(start, stop, radius_mm, radius_mm)
    box = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    _bone(canvas, shape, marrow, box=box, shell_mm=min(1.6, radius_mm * 0.4))


def _ball(
    canvas: Canvas,
    centre: Point,
    radii: Point,
    *,
    marrow: Tissue,
    tilt: Point = (0.0, 0.0, 0.0),
) -> None:
    reach = max(radii) * (1 + max(abs(t) for t in tilt))
    low = (centre[0] - reach, centre[1] - reach, centre[2] - reach)
    high = (centre[0] + reach, centre[1] + reach, centre[2] + reach)
    shape = ellipsoid(centre, radii, tilt=tilt)
    _bone(canvas, shape, marrow, box=(low, high), shell_mm=1.8)


def _spine(canvas: Canvas, bones: Bones) -> None:
    def column(z: Floats, y: Floats, x: Floats) -> Floats:
        dy = (y - spine_y_mm(z, bones)) / 16.5
        flat = (np.sqrt((x / 22.0) ** 2 + np.where(dy > 0, dy * 1.15, dy) ** 2) - 1) * 19.0
        return np.asarray(flat, dtype=np.float32)

    top = LEVELS[-1] * LEVEL_MM
    bottom = LEVELS[0] * LEVEL_MM - 17
    canvas.paint(column, DISC, low=(bottom, -20, -24), high=(top, 60, 24))
    for level in LEVELS:
        middle = level * LEVEL_MM

        def body(z: Floats, y: Floats, x: Floats, middle: float = middle) -> Floats:
            height = np.abs(z - np.float32(middle))
            # A waist: the ends of a vertebral body are wider than its middle.
            waist = np.float32(1.8) - (height / np.float32(13.0)) ** 2 * np.float32(2.4)
            ends = height - np.float32(13.0)
            return np.asarray(np.maximum(column(z, y, x) + waist, ends), dtype=np.float32)

        back = float(spine_y_mm(middle, bones))
        box = ((middle - 14, back - 22, -26.0), (middle + 14, back + 22, 26.0))
        _bone(canvas, body, bones.marrow, box=box, shell_mm=1.3)
        _arch(canvas, bones, middle, back)


def _arch(canvas: Canvas, bones: Bones, middle: float, y0: float) -> None:
    """Paint pedicles, laminae, processes and the canal of one vertebra."""
    marrow = bones.marrow
    for side in (-1.0, 1.0):
        root = (middle + 4, y0 + 12, side * 14)
        corner = (middle + 2, y0 + 24, side * 17)
        _rod(canvas, root, corner, radius_mm=5.0, marrow=marrow)
        _rod(canvas, (middle - 4, y0 + 27, side * 16), (middle - 18, y0 + 31, side * 17),
             radius_mm=6.0, marrow=marrow)  # fmt: skip
        _rod(canvas, corner, (middle, y0 + 29, side * 42), radius_mm=3.2, marrow=marrow)
        _rod(canvas, (middle - 3, y0 + 30, side * 13), (middle - 9, y0 + 41, 0.0),
             radius_mm=3.6, marrow=marrow)  # fmt: skip
    _rod(canvas, (middle - 9, y0 + 42, 0.0), (middle - 14, y0 + 64, 0.0), radius_mm=3.6,
         marrow=marrow)  # fmt: skip
    low, high = (middle - 18.0, y0 + 14, -12.0), (middle + 18.0, y0 + 36, 12.0)

    def canal(z: Floats, y: Floats, x: Floats) -> Floats:
        dy = y - spine_y_mm(z, bones) - np.float32(24.5)
        flat = np.sqrt((x / 10.5) ** 2 + (dy / 8.0) ** 2)
        return np.asarray(np.maximum((flat - 1) * 9, np.abs(z - middle) - 17.5), dtype=np.float32)

    canvas.paint(canal, Tissue(22.0, 4.0), low=low, high=high)


def _sacrum(canvas: Canvas, bones: Bones) -> None:
    y0 = float(spine_y_mm(-95, bones))
    pieces = []
    for k in range(6):
        middle = (-102 - 15.0 * k, y0 + 12 + 9.0 * k, 0.0)
        pieces.append((middle, (15.0, 16 - 1.8 * k, 24 - 2.6 * k)))
        if k < 4:
            pieces.extend(
                ((middle[0] - 2, middle[1] + 3, side * (26 - 4.0 * k)), (14.0, 13 - 1.5 * k, 17.0))
                for side in (-1.0, 1.0)
            )
    for centre, radii in pieces:
        paint_ellipsoid(canvas, centre, radii, CORTEX)
    # The cores after all shells, so that no shell runs through the bone.
    for centre, (a, b, c) in pieces:
        paint_ellipsoid(canvas, centre, (a - 1.8, b - 1.8, c - 1.8), bones.marrow)


def _ribs(canvas: Canvas, bones: Bones, wall_DHW: Floats, side: float) -> None:
    """Paint the lower ribs: arcs within the wall that fall from the spine to the front."""
    for number, start in enumerate((112.0, 143.0, 174.0, 205.0)):
        # The twelfth rib is short; the ones above reach further round.
        reach = (0.55, 1.15, 1.75, 2.2)[number]
        low, high = (start - bones.rib_drop_mm - 12, -110.0, -170.0), (start + 8, 100.0, 170.0)
        part = canvas.part(low, high)
        if part is None:
            continue
        deep = wall_DHW[part] + np.float32(7.0)

        def rib(  # noqa: PLR0913 - coordinates, and what the loop binds
            z: Floats,
            y: Floats,
            x: Floats,
            *,
            deep: Floats = deep,
            start: float = start,
            reach: float = reach,
        ) -> Floats:
            angle = np.arctan2(x * np.float32(side), y - np.float32(18.0))
            height = z - np.float32(start) + np.float32(bones.rib_drop_mm) * angle / 2
            oval = np.sqrt((deep / np.float32(0.62)) ** 2 + height**2) - np.float32(6.2)
            ends = np.maximum(np.float32(0.30) - angle, angle - np.float32(reach)) * 60
            return np.asarray(np.maximum(oval * np.float32(0.8), ends), dtype=np.float32)

        _bone(canvas, rib, Tissue(220.0, 40.0), box=(low, high), shell_mm=1.4)


def _half_pelvis(canvas: Canvas, bones: Bones, side: float) -> None:
    bowl = ellipsoid((-105.0, -8.0, side * 52), (98.0, 68.0, 78.0))

    def wing(z: Floats, y: Floats, x: Floats) -> Floats:
        across = x * np.float32(side)
        sheet = np.abs(bowl(z, y, x)) - np.float32(5.0)
        # The crest is highest at the side and falls to the front and the back.
        crest = z + 45 + np.float32(0.011) * y**2
        for edge in (crest, 44 - across, -172 - z, -34 - y - (z + 110) * np.float32(0.2)):
            sheet = np.maximum(sheet, edge)
        return np.asarray(sheet, dtype=np.float32)

    reach = sorted((side * 40, side * 140))
    box = ((-175.0, -70.0, reach[0]), (-40.0, 70.0, reach[1]))
    _bone(canvas, wing, bones.marrow, box=box, shell_mm=1.8)
    _ball(canvas, (-178.0, 4.0, side * 80), (34.0, 32.0, 27.0), marrow=bones.marrow)
    paint_ellipsoid(canvas, (-188.0, 0.0, side * 92), (27.0, 27.0, 27.0), CARTILAGE)
    dense = Tissue(bones.marrow_hu + 90, 40.0)
    _ball(canvas, (-188.0, 0.0, side * 92), (24.0, 24.0, 24.0), marrow=dense)
    _rod(canvas, (-192.0, 3.0, side * 100), (-212.0, 8.0, side * 132), radius_mm=15.0,
         marrow=bones.marrow)  # fmt: skip
    _rod(canvas, (-196.0, -28.0, side * 68), (-214.0, -52.0, side * 14), radius_mm=9.0,
         marrow=bones.marrow)  # fmt: skip
    _rod(canvas, (-190.0, 30.0, side * 72), (-228.0, 38.0, side * 58), radius_mm=13.0,
         marrow=bones.marrow)  # fmt: skip
