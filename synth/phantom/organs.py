"""Kidneys with their collecting system, ureters, bladder, and what lies round them.

Coordinates are z (superior), y (posterior), x (left) in mm, z = 0 at the third lumbar vertebra;
legend: D, H, W. Sizes are an adult's, rounded; source: ours, after anatomical atlases. Values in HU
without contrast medium: kidney 20 to 40, liver 45 to 65, spleen 35 to 55, blood 45 to 65, fat
-50 to -110 (Prokop, Spiral and Multislice CT of the Body, 2003); urine 0 to 15.
"""

from dataclasses import dataclass

import numpy as np

from fedward.synth.phantom.fields import (
    Canvas,
    Distance,
    Floats,
    Point,
    Tissue,
    ellipsoid,
    ellipsoid_box,
    paint_ellipsoid,
    paint_tube,
)

FAT = Tissue(-103.0, 9.0, 4.0)
SINUS_FAT = Tissue(-82.0, 8.0)
MUSCLE = Tissue(53.0, 9.0, 6.0)
KIDNEY = Tissue(33.0, 3.5, 2.0)
WALL = Tissue(38.0, 4.0)
URINE = Tissue(6.0, 1.5)
BLOOD = Tissue(46.0, 2.0)
LIVER = Tissue(57.0, 3.0, 2.0)
SPLEEN = Tissue(49.0, 2.5)
GAS = Tissue(-940.0)
FASCIA = Tissue(-30.0)


@dataclass(frozen=True)
class Kidney:
    """One kidney and its ureter."""

    side: float
    """1 left, -1 right."""
    centre: Point
    radii: Point
    tilt: Point
    dilation: float
    """Of the collecting system: 1 normal, up to 2.2 above an obstructing stone."""
    ureter: tuple[Point, ...]
    """From the renal pelvis to the bladder."""

    @property
    def pelvis(self) -> Point:
        """Return the middle of the renal pelvis."""
        z, y, x = self.centre
        return z - 4, y - 5, x - self.side * 19

    def calyx(self, number: int) -> Point:
        """Return the end of the lower (0), middle (1) or upper (2) calyx."""
        z, y, x = self.centre
        dz = (number - 1) * self.radii[0] * 0.56
        return z + dz, y + self.tilt[0] * dz - 1, x + self.side * 5 + self.tilt[1] * dz


@dataclass(frozen=True)
class Loop:
    """A piece of bowel or a stomach: a wall, gas above, something below."""

    centre: Point
    radii: Point
    content_hu: float
    level_mm: float
    """Gas stands in front of this y."""


@dataclass(frozen=True)
class Organs:
    """What differs between the organs of two patients."""

    kidneys: tuple[Kidney, Kidney]
    bladder: tuple[Point, Point]
    """Centre and radii."""
    loops: tuple[Loop, ...]
    vessels: tuple[tuple[Point, Point], ...]
    """Of the mesentery, as short straight pieces."""
    plaques: tuple[Point, ...]
    """Calcified spots of the aorta's wall and pelvic veins: dense, and no stones."""


def draw_organs(rng: np.random.Generator, *, obstructed: float = 0.0) -> Organs:
    """Return random organs.

    Args:
        rng: its state decides.
        obstructed: the side (1 left, -1 right) above whose stone urine stands; 0: none.
    """
    filling = float(rng.uniform(0.75, 1.15))
    bladder = ((-172.0, -4.0, 0.0), (30 * filling, 33 * filling, 40 * filling))
    kidneys = (_draw_kidney(rng, 1.0, obstructed), _draw_kidney(rng, -1.0, obstructed))
    return Organs(kidneys, bladder, _draw_loops(rng), _draw_vessels(rng), _draw_plaques(rng))


def _draw_kidney(rng: np.random.Generator, side: float, obstructed: float) -> Kidney:
    z = (54.0 if side > 0 else 43.0) + float(rng.normal(0, 5))
    centre = (z, 27.0 + float(rng.normal(0, 2)), side * (66.0 + float(rng.normal(0, 2))))
    scale = float(rng.normal(1, 0.06))
    radii = (53.0 * scale, 25.0 * scale, 29.0 * scale)
    tilt = (0.16 + float(rng.normal(0, 0.03)), -side * (0.22 + float(rng.normal(0, 0.04))), 0.0)
    dilation = float(rng.uniform(0.85, 1.15))
    if side == obstructed:
        dilation = float(rng.uniform(1.2, 2.1))
    wander = rng.normal(0, 2.5, size=(6, 2))
    corners = [
        (z - 6, 21.0, 45.0), (z - 28, 5.0, 41.0), (-8.0, -2.0, 39.0), (-48.0, -5.0, 36.0),
        (-88.0, 0.0, 31.0), (-122.0, 24.0, 45.0), (-150.0, 33.0, 49.0), (-166.0, 24.0, 30.0),
        (-172.0, 16.0, 17.0),
    ]  # fmt: skip
    points = []
    for k, (a, b, c) in enumerate(corners):
        dy, dx = wander[k - 1] if 1 <= k <= 6 else (0.0, 0.0)
        points.append((float(a), float(b + dy), float(side * (c + dx))))
    return Kidney(side, centre, radii, tilt, dilation, tuple(points))


def _draw_loops(rng: np.random.Generator) -> tuple[Loop, ...]:
    centres: list[tuple[Point, float]] = [
        ((float(z), 2.0, -104.0), 20.0) for z in range(-62, 52, 19)
    ]
    centres.extend(((float(z), 18.0, 108.0), 14.0) for z in range(-84, 66, 17))
    centres.extend(((28.0 - 0.003 * x * x, -58.0, float(x)), 16.0) for x in range(-86, 100, 19))
    centres.extend([((-112.0, 20.0, 95.0), 14.0), ((-125.0, 22.0, 74.0), 13.0),
                    ((-138.0, 34.0, 40.0), 14.0), ((-152.0, 48.0, 12.0), 15.0),
                    ((-170.0, 52.0, 0.0), 16.0), ((-190.0, 55.0, 0.0), 14.0)])  # fmt: skip
    for _ in range(95):
        place = (rng.uniform(-150, 14), rng.uniform(-72, -10), rng.uniform(-82, 82))
        centres.append(((float(place[0]), float(place[1]), float(place[2])), 12.0))
    loops = [Loop((112.0, -34.0, 66.0), (38.0, 36.0, 40.0), 22.0, float(rng.uniform(-60, -30)))]
    for (z, y, x), radius in centres:
        jitter = rng.normal(0, 3, size=3)
        radii = np.clip(radius * rng.lognormal(0, 0.16, size=3), 8, 26)
        colon = radius > 12.0
        gassy = rng.random() < (0.6 if colon else 0.15)
        level = y + float(rng.uniform(-0.4, 0.7)) * radii[1] if gassy else -999.0
        loops.append(Loop(
            (float(z + jitter[0]), float(y + jitter[1]), float(x + jitter[2])),
            (float(radii[0]), float(radii[1]), float(radii[2])),
            float(rng.uniform(-20, 35) if colon else rng.uniform(15, 38)),
            float(level),
        ))  # fmt: skip
    return tuple(loops)


def _draw_vessels(rng: np.random.Generator) -> tuple[tuple[Point, Point], ...]:
    pieces = []
    for _ in range(70):
        start = rng.uniform((-120, -60, -90), (90, 10, 90))
        stop = start + rng.normal(0, 12, size=3)
        pieces.append(((float(start[0]), float(start[1]), float(start[2])),
                       (float(stop[0]), float(stop[1]), float(stop[2]))))  # fmt: skip
    return tuple(pieces)


def _draw_plaques(rng: np.random.Generator) -> tuple[Point, ...]:
    spots: list[Point] = []
    for _ in range(int(rng.poisson(2.0))):
        angle = rng.uniform(0, 2 * np.pi)
        z = float(rng.uniform(-55, 100))
        spots.append((z, float(-11 + 9.5 * np.sin(angle)), float(11 + 9.5 * np.cos(angle))))
    for _ in range(int(rng.poisson(1.0))):
        side = 1.0 if rng.random() < 0.5 else -1.0
        spots.append((float(rng.uniform(-195, -155)), float(rng.uniform(20, 42)),
                      side * float(rng.uniform(44, 62))))  # fmt: skip
    return tuple(spots)


def paint_organs(canvas: Canvas, organs: Organs) -> None:
    """Paint muscles and organs; later ones cover earlier ones."""
    for side in (-1.0, 1.0):
        _muscles(canvas, side)
    paint_ellipsoid(canvas, (100.0, -12.0, -76.0), (92.0, 78.0, 80.0), LIVER, inner=True)
    paint_ellipsoid(canvas, (122.0, -48.0, 0.0), (40.0, 30.0, 62.0), LIVER, inner=True)
    paint_ellipsoid(canvas, (112.0, 38.0, 102.0), (46.0, 34.0, 25.0), SPLEEN, inner=True)
    paint_tube(canvas, [(38.0, -18.0, -42.0), (52.0, -28.0, -5.0), (70.0, -18.0, 60.0)],
               [13.0, 9.0, 8.0], Tissue(40.0, 8.0))  # fmt: skip
    for start, stop in organs.vessels:
        paint_tube(canvas, [start, stop], [1.6, 1.2], BLOOD)
    for loop in organs.loops:
        _loop(canvas, loop)
    _great_vessels(canvas)
    for kidney in organs.kidneys:
        _kidney(canvas, kidney)
    for kidney in organs.kidneys:
        _ureter(canvas, kidney)
    _bladder(canvas, organs.bladder)
    for spot in organs.plaques:
        paint_ellipsoid(canvas, spot, (2.2, 1.5, 1.6), Tissue(480.0, 60.0))


def kidney_shape(kidney: Kidney) -> tuple[Distance, Point, Point]:
    """Return the distance to a kidney (with its sinus) and two corners of a box round it."""
    outside = ellipsoid(kidney.centre, kidney.radii, tilt=kidney.tilt)
    z, y, x = kidney.centre
    notch = ellipsoid((z - 2, y - 6, x - kidney.side * 34), (20.0, 13.0, 16.0))

    def distance(zz: Floats, yy: Floats, xx: Floats) -> Floats:
        return np.maximum(outside(zz, yy, xx), -notch(zz, yy, xx))

    low, high = ellipsoid_box(kidney.centre, kidney.radii, kidney.tilt)
    return distance, low, high


def _kidney(canvas: Canvas, kidney: Kidney) -> None:
    shape, low, high = kidney_shape(kidney)
    around = (kidney.radii[0] + 14, kidney.radii[1] + 8, kidney.radii[2] + 9)
    envelope = ellipsoid(kidney.centre, around, tilt=kidney.tilt)
    low_fat, high_fat = ellipsoid_box(kidney.centre, around, kidney.tilt)

    def fascia(z: Floats, y: Floats, x: Floats) -> Floats:
        return np.asarray(np.abs(envelope(z, y, x)) - np.float32(0.5), dtype=np.float32)

    canvas.paint(envelope, FAT, low=low_fat, high=high_fat, inner=True)
    canvas.paint(fascia, FASCIA, low=low_fat, high=high_fat, inner=True)
    canvas.paint(shape, KIDNEY, low=low, high=high)
    z, y, x = kidney.centre
    side, wide = kidney.side, kidney.dilation
    paint_ellipsoid(canvas, (z, y - 3, x - side * 11), (31.0, 9.5, 13.5), SINUS_FAT,
                    tilt=kidney.tilt)  # fmt: skip
    stem = (z + 3, y - 4, x - side * 18)
    paint_tube(canvas, [stem, (z + 8, 5.0, side * 20)], [3.5, 4.5], BLOOD)
    paint_ellipsoid(canvas, kidney.pelvis, (9 * wide, 5 * wide, 8 * wide), URINE)
    for number in range(3):
        paint_tube(canvas, [kidney.pelvis, kidney.calyx(number)], [2.2 * wide, 1.6 * wide], URINE)
        paint_ellipsoid(canvas, kidney.calyx(number), tuple_of((4.0, 3.0, 3.4), wide), URINE)


def tuple_of(point: Point, factor: float) -> Point:
    """Return a point times a factor."""
    return point[0] * factor, point[1] * factor, point[2] * factor


def _ureter(canvas: Canvas, kidney: Kidney) -> None:
    points = list(kidney.ureter)
    lumen = [3.2 * kidney.dilation, *[1.2 * kidney.dilation] * (len(points) - 1)]
    paint_tube(canvas, points, [radius + 1.2 for radius in lumen], WALL)
    paint_tube(canvas, points, lumen, URINE)


def _bladder(canvas: Canvas, bladder: tuple[Point, Point]) -> None:
    centre, radii = bladder
    paint_ellipsoid(canvas, (-208.0, 2.0, 0.0), (20.0, 17.0, 23.0), Tissue(42.0, 6.0))
    paint_tube(canvas, [(-200.0, 0.0, 0.0), (-240.0, -8.0, 0.0)], [4.0, 4.5], WALL)
    paint_ellipsoid(canvas, centre, (radii[0] + 3, radii[1] + 3, radii[2] + 3), WALL)
    paint_ellipsoid(canvas, centre, radii, URINE)


def _great_vessels(canvas: Canvas) -> None:
    paint_tube(canvas, [(180.0, -8.0, 10.0), (-55.0, -13.0, 9.0)], [11.0, 9.0], BLOOD)
    paint_tube(canvas, [(180.0, -18.0, -22.0), (-60.0, -7.0, -17.0)], [12.0, 11.0], BLOOD)
    for side in (-1.0, 1.0):
        paint_tube(canvas, [(-52.0, -12.0, side * 8), (-105.0, 8.0, side * 32),
                            (-150.0, -8.0, side * 52), (-215.0, -52.0, side * 70)],
                   [7.0, 6.0, 5.5, 5.0], BLOOD)  # fmt: skip
        paint_tube(canvas, [(-60.0, -4.0, side * 9), (-112.0, 18.0, side * 38),
                            (-155.0, 2.0, side * 60), (-215.0, -44.0, side * 62)],
                   [8.0, 7.0, 6.0, 6.0], BLOOD)  # fmt: skip


def _loop(canvas: Canvas, loop: Loop) -> None:
    paint_ellipsoid(canvas, loop.centre, loop.radii, WALL, inner=True)
    inside = (loop.radii[0] - 2.2, loop.radii[1] - 2.2, loop.radii[2] - 2.2)
    paint_ellipsoid(canvas, loop.centre, inside, Tissue(loop.content_hu, 9.0), inner=True)
    if loop.level_mm < loop.centre[1] - inside[1]:
        return
    lumen = ellipsoid(loop.centre, inside)

    def gas(z: Floats, y: Floats, x: Floats) -> Floats:
        level = y - np.float32(loop.level_mm)
        return np.asarray(np.maximum(lumen(z, y, x), level), dtype=np.float32)

    low, high = ellipsoid_box(loop.centre, inside, (0.0, 0.0, 0.0))
    canvas.paint(gas, GAS, low=low, high=high, inner=True)


def _muscles(canvas: Canvas, side: float) -> None:
    """Paint psoas, the muscles of the back, and the buttocks."""
    streaky = Tissue(47.0, 16.0, 10.0)
    paint_ellipsoid(canvas, (-120.0, 5.0, side * 118), (78.0, 62.0, 30.0), MUSCLE, inner=False)
    paint_ellipsoid(canvas, (-172.0, 62.0, side * 66), (70.0, 30.0, 58.0), streaky)
    paint_ellipsoid(canvas, (-235.0, -20.0, side * 85), (60.0, 60.0, 45.0), MUSCLE)
    paint_ellipsoid(canvas, (-110.0, 4.0, side * 84), (60.0, 45.0, 22.0), MUSCLE, inner=True)
    paint_ellipsoid(canvas, (60.0, 63.0, side * 36), (260.0, 22.0, 31.0), streaky)
    paint_ellipsoid(canvas, (10.0, 52.0, side * 70), (75.0, 9.0, 19.0), MUSCLE)
    paint_tube(canvas, [(98.0, 18.0, side * 24), (30.0, 20.0, side * 34),
                        (-30.0, 20.0, side * 42), (-95.0, 8.0, side * 52),
                        (-150.0, -22.0, side * 76), (-205.0, -30.0, side * 90)],
               [7.0, 15.0, 20.0, 23.0, 20.0, 15.0], MUSCLE)  # fmt: skip
    paint_ellipsoid(canvas, (-200.0, 22.0, side * 44), (28.0, 24.0, 9.0), MUSCLE)
