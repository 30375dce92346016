"""The body's tissues, the stones' values, and what a scanner does to them."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fedward.common.randomness import numpy_generator
from fedward.synth.phantom.anatomy import HIGH, LOW, Body, draw_body, in_bent_body, paint_body
from fedward.synth.phantom.fields import Floats, Grid, Point, smooth_field, steps
from fedward.synth.phantom.lesions import FINE_MM, add_lesion, measured
from fedward.synth.phantom.scanner import SCANNERS, Scanner, blurred, read_out, scanner_of
from fedward.synth.phantom.skeleton import spine_y_mm
from fedward.synth.phantom.stones import COMPOSITIONS, draw_stone


@dataclass(frozen=True)
class Ball:
    """A ball of one value."""

    centre: Point
    radius_mm: float

    @property
    def reach_mm(self) -> float:
        return self.radius_mm + 1

    def on(self, grid: Grid) -> tuple[Floats, Floats]:
        z, y, x = np.ix_(*grid.axes)
        away = sum((a - c) ** 2 for a, c in zip((z, y, x), self.centre, strict=True))
        inside = np.asarray(away < self.radius_mm**2, dtype=np.float32)
        return inside, np.full(inside.shape, 800, dtype=np.float32)


@pytest.fixture(scope="module")
def body() -> Body:
    return draw_body(numpy_generator(8, purpose="body"), LOW, HIGH, obstructed=0.0)


def around(body: Body, point: Point, half_mm: float = 1.5) -> NDArray[np.float32]:
    z, y, x = in_bent_body(body, point)
    count = int(2 * half_mm) + 1
    grid = Grid(steps(z, count, 1.0), steps(y, count, 1.0), steps(x, count, 1.0))
    return paint_body(body, grid, edge_mm=1.0).hu_DHW


def test_tissues_have_the_values_of_textbooks(body: Body) -> None:
    kidney = body.organs.kidneys[0]
    z, y, x = kidney.centre
    fat_y = body.half_depth_mm + 5
    cortex = (z + 0.2 * kidney.radii[0], y + 10, x + 18)
    for point, low, high in (
        (cortex, 20, 45),
        (body.organs.bladder[0], -5, 20),
        ((110.0, -20.0, -90.0), 45, 70),
        ((0.0, fat_y, 0.0), -130, -80),
        ((0.0, float(spine_y_mm(0, body.bones)), 0.0), 40, 330),
        ((0.0, -185.0, 0.0), -1001, -999),
    ):
        values = around(body, point)
        assert low <= values.mean() <= high, point


def test_bone_is_dense_and_gas_is_in_the_bowel(body: Body) -> None:
    grid = Grid(steps(0.0, 40, 6.0), steps(0.0, 100, 2.0), steps(0.0, 140, 2.0))
    hu_DHW = paint_body(body, grid, edge_mm=2.0).hu_DHW
    inside = hu_DHW[:, 30:70, 30:110]
    assert 0.005 < (inside > 300).mean() < 0.1
    assert 0.001 < (inside < -500).mean() < 0.1


def test_a_body_painted_in_two_parts_is_the_same_as_in_one(body: Body) -> None:
    y_mm, x_mm = steps(20.0, 60, 1.0), steps(60.0, 60, 1.0)
    z_mm = steps(50.0, 20, 1.0)
    whole = paint_body(body, Grid(z_mm, y_mm, x_mm), edge_mm=1.0).hu_DHW
    upper = paint_body(body, Grid(z_mm[10:], y_mm, x_mm), edge_mm=1.0).hu_DHW
    assert np.abs(whole[10:] - upper).max() < 0.5


def test_a_smooth_field_has_mean_0_and_standard_deviation_1() -> None:
    field = smooth_field(
        numpy_generator(1, purpose="field"), (0, 0, 0), (90, 90, 90), period_mm=4.0
    )
    values = field.on(Grid(steps(45, 80, 1.1), steps(45, 80, 1.1), steps(45, 80, 1.1)))
    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("radius_mm", [2.0, 5.0, 11.0])
def test_a_balls_measures_are_those_of_geometry(radius_mm: float) -> None:
    truth = measured(Ball((3.0, -2.0, 7.0), radius_mm))
    assert truth.diameter_mm == pytest.approx(2 * radius_mm, abs=1.1 * FINE_MM)
    assert truth.volume_mm3 == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.05)
    assert truth.centre == pytest.approx((3.0, -2.0, 7.0), abs=0.05)
    assert (truth.mean_hu, truth.sd_hu) == (800, 0)


def test_a_lesion_keeps_its_mass_on_thick_slices() -> None:
    grid = Grid(steps(0.0, 8, 5.0), steps(0.0, 40, 0.8), steps(0.0, 40, 0.8))
    hu, share = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    add_lesion(Ball((1.0, 0.3, -0.2), 6.0), grid, hu, share, spacing_mm=(5.0, 0.8, 0.8))
    volume = 4 / 3 * np.pi * 6.0**3
    assert share.sum() * 5 * 0.8**2 == pytest.approx(volume, rel=0.02)
    assert hu.sum() * 5 * 0.8**2 == pytest.approx(800 * volume, rel=0.02)


def test_stones_have_the_published_values_of_their_composition() -> None:
    published = {
        "calcium-oxalate-monohydrate": (730, 1130), "calcium-oxalate-dihydrate": (510, 810),
        "uric-acid": (320, 550), "struvite": (614, 870), "brushite": (1100, 1365),
        "cystine": (580, 720), "uric-acid-calcium-oxalate": (499, 840),
        "carbonate-apatite": (650, 1050),
    }  # fmt: skip
    rng = numpy_generator(6, purpose="stones")
    for composition in COMPOSITIONS:
        low, high = published[composition.name]
        values = [
            draw_stone(rng, composition, centre=(0.0, 0.0, 0.0), diameter_mm=6.0).mean_hu
            for _ in range(60)
        ]
        inside = np.mean([low <= value <= high for value in values])
        assert inside > 0.75, composition.name


def test_an_infection_stone_varies_more_inside_than_calcium_oxalate_monohydrate() -> None:
    rng = numpy_generator(7, purpose="stones")
    by_name = {item.name: item for item in COMPOSITIONS}
    relative = {}
    for name in ("struvite", "calcium-oxalate-monohydrate"):
        truths = [
            measured(draw_stone(rng, by_name[name], centre=(0.0, 0.0, 0.0), diameter_mm=10.0))
            for _ in range(24)
        ]
        relative[name] = np.mean([truth.sd_hu / truth.mean_hu for truth in truths])
        assert all(8 < truth.diameter_mm < 14 for truth in truths)
    assert relative["struvite"] > 1.25 * relative["calcium-oxalate-monohydrate"]


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: str(scanner.name))
def test_noise_and_bias_are_those_of_the_scanner(scanner: Scanner) -> None:
    rng = numpy_generator(9, purpose="noise")
    water = read_out(np.zeros((6, 96, 96), np.float32), scanner, rng)
    expected = np.hypot(scanner.noise_hu / np.sqrt(scanner.slice_mm), scanner.streak_hu)
    assert water.std() == pytest.approx(expected, rel=0.1)
    assert water.mean() == pytest.approx(scanner.bias_hu, abs=3)
    air = read_out(np.full((6, 96, 96), -1000, np.float32), scanner, rng)
    assert air.min() >= -1024


def test_blur_keeps_the_sum_and_widens_an_edge() -> None:
    point = np.zeros((1, 41, 41), np.float32)
    point[0, 20, 20] = 1000
    spread = blurred(point, SCANNERS[1])
    assert spread.sum() == pytest.approx(1000, rel=1e-3)
    assert spread.max() < 900


def test_sites_past_the_list_have_scanners_of_their_own() -> None:
    names = [scanner_of(k).name for k in range(20)]
    assert len(set(names)) == 20
    assert scanner_of(2) == scanner_of(2)
