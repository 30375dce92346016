"""Patients with urinary stones: a region round one stone, or the whole abdomen.

Legend: D slices, H rows, W columns; points are z, y, x in mm until a `Phantom` turns them into LPS.
"""

import numpy as np

from fedward.synth.phantom.anatomy import HIGH, LOW, Body, draw_body, in_bent_body, paint_body
from fedward.synth.phantom.clinical import draw_location, stone_row
from fedward.synth.phantom.fields import (
    Canvas,
    Floats,
    Grid,
    Point,
    Tissue,
    paint_ellipsoid,
)
from fedward.synth.phantom.imaging import Image, grid_of, imaged
from fedward.synth.phantom.lesions import measured
from fedward.synth.phantom.organs import KIDNEY, URINE, WALL, Kidney, kidney_shape, tuple_of
from fedward.synth.phantom.states import States, draw_states
from fedward.synth.phantom.stones import (
    SMALLEST_MM,
    Composition,
    Stone,
    draw_composition,
    draw_diameter_mm,
    draw_stone,
)
from fedward.synth.phantom.truth import CaseSpec, Lesion, Phantom, Side

INFECTIOUS_SHARE = 0.41
"""111 of 272 stones of USCNet's test set (table 6)."""
_CALYCES = ("lower-calyx", "middle-calyx", "upper-calyx")
_LARGEST_MM = {"ureter": 16.0, "urethra": 12.0, "bladder": 30.0}
_PLACED = tuple[str, float, Point]
"""Place, side (1 left, -1 right, 0 middle), point in the undeformed body."""


def stone_case(spec: CaseSpec, rng: np.random.Generator) -> Phantom:
    """Return the region round one stone."""
    states = draw_states(rng, spec.labels_from, INFECTIOUS_SHARE)
    location = draw_location(rng)
    side = _side(rng, location)
    shift = rng.uniform(-0.06, 0.06, size=3) * spec.size_mm
    extent = float(spec.size_mm)
    # Where in the body the region lies is known only after the organs are drawn, so the body's
    # fields must cover all of it.
    body = draw_body(rng, LOW, HIGH, obstructed=side if "ureter" in location else 0.0)
    placed = _place(rng, body, location, side)
    composition = draw_composition(rng, infectious=states.image)
    stone = _stone_at(rng, body, placed, composition, largest=extent * 0.5)
    centre = tuple(c + float(s) for c, s in zip(stone.centre, shift, strict=True))
    grid = grid_of(spec.scanner, (centre[0], centre[1], centre[2]), (extent, extent, extent))
    lesions = [(stone, placed)]

    def painter(part: Grid, edge_mm: float) -> Canvas:
        canvas = paint_body(body, part, edge_mm=edge_mm)
        _bed(canvas, lesions)
        return canvas

    image = imaged(painter, [stone], grid, scanner=spec.scanner, rng=rng)
    row = stone_row(
        rng, infectious=states.table, composition=_table_composition(rng, states, composition),
        location=location, missing=spec.missing,
    )  # fmt: skip
    return _phantom(spec, image, lesions, states, row)


def abdomen_case(spec: CaseSpec, rng: np.random.Generator) -> Phantom:
    """Return a body from the diaphragm to the pelvic floor, with one stone or several."""
    states = draw_states(rng, spec.labels_from, INFECTIOUS_SHARE)
    location = draw_location(rng)
    side = _side(rng, location)
    body = draw_body(rng, LOW, HIGH, obstructed=side if "ureter" in location else 0.0)
    composition = draw_composition(rng, infectious=states.image)
    places = [_place(rng, body, location, side)]
    taken = {(places[0][0], places[0][1])}
    for _ in range(int(rng.poisson(0.9))):
        other = _place(rng, body, "kidney", 1.0 if rng.random() < 0.5 else -1.0)
        if (other[0], other[1]) not in taken and other[0] != "renal-pelvis":
            taken.add((other[0], other[1]))
            places.append(other)
    lesions = []
    for number, placed in enumerate(places):
        largest = 30.0 if number == 0 else 9.0
        lesions.append((_stone_at(rng, body, placed, composition, largest=largest), placed))
    half_width = body.half_width_mm + 18 + 1.2 * body.fat_mm + 12
    half_depth = body.half_depth_mm + 1.25 * body.fat_mm + 36
    # The couch needs room behind the body; a frame of air is enough in front.
    extent = (HIGH[0] - LOW[0], 2 * half_depth, 2 * half_width)
    grid = grid_of(spec.scanner, ((HIGH[0] + LOW[0]) / 2, 8.0, 0.0), extent)
    kidneys = [kidney_shape(kidney) for kidney in body.organs.kidneys]

    def painter(part: Grid, edge_mm: float) -> Canvas:
        canvas = paint_body(body, part, edge_mm=edge_mm)
        _bed(canvas, lesions)
        return canvas

    def kidney_share(canvas: Canvas) -> Floats:
        total = np.zeros(canvas.grid.shape, dtype=np.float32)
        for shape, low, high in kidneys:
            part = canvas.part(low, high)
            if part is not None:
                total[part] = np.maximum(total[part], canvas.share(shape, part))
        return total

    image = imaged(
        painter, [stone for stone, _ in lesions], grid, scanner=spec.scanner, rng=rng,
        organ=kidney_share,
    )  # fmt: skip
    row = stone_row(
        rng, infectious=states.table, composition=_table_composition(rng, states, composition),
        location=location, missing=spec.missing,
    )  # fmt: skip
    return _phantom(spec, image, lesions, states, row)


def _table_composition(rng: np.random.Generator, states: States, composition: Composition) -> str:
    """Return the composition that shifts the table: the image's, unless it is another patient's."""
    other = draw_composition(rng, infectious=states.table)
    return composition.name if states.linked else other.name


def _side(rng: np.random.Generator, location: str) -> float:
    if location in ("bladder", "urethra"):
        return 0.0
    if location.startswith(("left", "right")):
        return 1.0 if location.startswith("left") else -1.0
    return 1.0 if rng.random() < 0.5 else -1.0


def _place(rng: np.random.Generator, body: Body, location: str, side: float) -> _PLACED:
    if location == "bladder":
        (z, y, x), radii = body.organs.bladder
        # Stones lie on the floor of the bladder: the back of a patient on the couch.
        return "bladder", 0.0, (z - 3, y + 0.55 * radii[1], x + float(rng.normal(0, 7)))
    if location == "urethra":
        return "urethra", 0.0, (float(rng.uniform(-222, -206)), -3.0, 0.0)
    kidney = body.organs.kidneys[0 if side > 0 else 1]
    if "kidney" in location:
        number = int(rng.choice(4, p=(0.38, 0.16, 0.16, 0.30)))
        if number == 3:
            return "renal-pelvis", side, kidney.pelvis
        return _CALYCES[number], side, kidney.calyx(number)
    return "ureter", side, _in_ureter(rng, kidney)


def _in_ureter(rng: np.random.Generator, kidney: Kidney) -> Point:
    """Return a point of the ureter: most often at its ends and where it crosses the vessels."""
    steps_in = len(kidney.ureter) - 1
    along = float(rng.choice((0.09, 0.5, 0.95), p=(0.3, 0.25, 0.45)) + rng.normal(0, 0.06))
    at = float(np.clip(along, 0.04, 0.985)) * steps_in
    k = min(int(at), steps_in - 1)
    start, stop = kidney.ureter[k], kidney.ureter[k + 1]
    inside = at - k
    return (
        start[0] + inside * (stop[0] - start[0]),
        start[1] + inside * (stop[1] - start[1]),
        start[2] + inside * (stop[2] - start[2]),
    )


def _stone_at(
    rng: np.random.Generator,
    body: Body,
    placed: _PLACED,
    composition: Composition,
    *,
    largest: float,
) -> Stone:
    place, _, point = placed
    limit = min(largest, _LARGEST_MM.get(place, 30.0))
    diameter = draw_diameter_mm(rng, composition, max(limit, SMALLEST_MM + 1))
    staghorn = composition.infectious and place == "renal-pelvis" and diameter > 16
    return draw_stone(
        rng, composition, centre=in_bent_body(body, point), diameter_mm=diameter,
        branched=staghorn, upright=place in ("ureter", "urethra"),
    )  # fmt: skip


def _bed(canvas: Canvas, lesions: list[tuple[Stone, _PLACED]]) -> None:
    """Widen the urinary tract round each stone: a rim of wall, then urine."""
    for stone, (place, _, point) in lesions:
        if place == "bladder":
            continue
        radii = tuple(float(r) for r in np.max([r for _, r in stone.lobes_L], axis=0))
        if place in ("ureter", "urethra"):
            wide = (radii[0] + 4, max(radii[1:]) + 1.8, max(radii[1:]) + 1.8)
            paint_ellipsoid(canvas, point, wide, WALL)
            continue
        rim: Tissue = KIDNEY if place in _CALYCES else WALL
        room = (radii[0] + 1.5, radii[1] + 1.5, radii[2] + 1.5)
        paint_ellipsoid(canvas, point, tuple_of(room, 1.12), rim)
        paint_ellipsoid(canvas, point, room, URINE)


def _phantom(
    spec: CaseSpec,
    image: Image,
    lesions: list[tuple[Stone, _PLACED]],
    states: States,
    row: dict[str, float | str | None],
) -> Phantom:
    sides: dict[float, Side] = {1.0: "left", -1.0: "right", 0.0: "middle"}
    truths = []
    for stone, (place, side, _) in lesions:
        size = measured(stone)
        z, y, x = size.centre
        truths.append(Lesion(
            structure="stone", composition=stone.composition.name, side=sides[side], place=place,
            diameter_mm=size.diameter_mm, volume_mm3=size.volume_mm3, mean_hu=size.mean_hu,
            sd_hu=size.sd_hu, centre_mm=(x, y, z),
        ))  # fmt: skip
    grid, scanner = image.grid, spec.scanner
    return Phantom(
        voxels_DHW=image.voxels_DHW,
        mask_DHW=image.mask_DHW,
        spacing_mm=(scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm),
        origin_mm=(float(grid.x_mm[0]), float(grid.y_mm[0]), float(grid.z_mm[0])),
        structures=("kidney", "stone") if spec.kind == "abdomen" else ("stone",),
        clinical=row,
        label=int(states.label),
        lesions=tuple(truths),
    )
