"""Volumes become rows: resampling, crops and the choice of rows, on numbers worked out by hand.

Legend: D, H, W as in a volume.
"""

import numpy as np
import pytest

from fedward.client.data.ct_rows import Grid, fitted, kept_rows, resampled, resized, rows_of
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import ImageSchema

TWO = ImageSchema(structures=("kidney", "stone"), lesion="stone")
ONE_MM = (1.0, 1.0, 1.0)
UNKNOWN = (float("nan"),) * 3


def test_resampling_a_ramp_gives_the_ramp_at_the_new_places() -> None:
    ramp_DHW = np.broadcast_to(10 * np.arange(30, dtype=np.int16), (3, 4, 30))
    grid = resampled(Grid(np.ascontiguousarray(ramp_DHW), None, (1, 1, 2.0)), (1, 1, 1.5))

    assert grid.voxels_DHW.shape == (3, 4, 40)
    assert grid.spacing_mm == (1, 1, 1.5)
    # Voxel i lies at 1.5 i + 0.75 mm from the face, the old voxel j at 2 j + 1.
    at_mm = 1.5 * np.arange(40) + 0.75
    expected = np.interp(at_mm, 2.0 * np.arange(30) + 1, 10 * np.arange(30))
    assert np.abs(grid.voxels_DHW[1, 2] - expected).max() <= 0.5


def test_an_axis_that_is_halved_is_averaged_so_that_noise_shrinks() -> None:
    rng = np.random.default_rng(0)
    noise_DHW = rng.normal(0, 100, (40, 40, 40)).astype(np.int16)
    # Of 64 voxels each: a standard deviation of 100 / 8.
    assert resized(noise_DHW, (10, 10, 10)).std() == pytest.approx(12.5, rel=0.1)


def test_spacing_says_what_became_of_it_and_not_what_was_asked() -> None:
    grid = resampled(Grid(np.zeros((10, 7, 7), np.int16), None, (3, 1, 1)), (2, 2, 2))
    assert grid.voxels_DHW.shape == (15, 4, 4)
    assert grid.spacing_mm == (2, 1.75, 1.75)


def test_of_two_structures_that_share_a_voxel_the_later_one_is_kept() -> None:
    labels_DHW = np.zeros((4, 4, 4), np.uint8)
    labels_DHW[:, :, :2], labels_DHW[:, :, 2:] = 1, 2
    labels_DHW[:, :, 1] = [[1, 2, 1, 2]] * 4
    grid = resampled(Grid(np.zeros((4, 4, 4), np.int16), labels_DHW, ONE_MM), (2, 2, 4))
    assert grid.mask_DHW is not None
    assert grid.mask_DHW[0, 0].tolist() == [2]


def test_a_spacing_that_nobody_knows_cannot_be_changed() -> None:
    with pytest.raises(SiteDataError, match="spacing of the voxels is not known"):
        resampled(Grid(np.zeros((4, 4, 4), np.int16), None, UNKNOWN), (1, 1, 1))


def test_a_crop_keeps_its_middle_and_pads_what_lies_outside() -> None:
    line = np.arange(10)
    assert fitted(line, (4,), centre=(5,), fill=-1).tolist() == [3, 4, 5, 6]
    assert fitted(line, (4,), centre=(0,), fill=-1).tolist() == [-1, -1, 0, 1]
    assert fitted(line, (5,), centre=(9,), fill=-1).tolist() == [7, 8, 9, -1, -1]
    assert fitted(line, (2,), centre=(50,), fill=-1).tolist() == [-1, -1]
    assert fitted(line, (14,), centre=(5,), fill=-1).tolist() == [-1, -1, *range(10), -1, -1]


def test_stones_that_touch_at_a_corner_are_one() -> None:
    labels_DHW = np.zeros((12, 12, 12), np.uint8)
    labels_DHW[2, 2, 2] = labels_DHW[3, 3, 3] = labels_DHW[9, 9, 9] = 2
    labels_DHW[5, 5, 5] = 1
    image = ImageConfig(size=(4, 4, 4), window=(0, 1))
    rows = rows_of(Grid(np.zeros((12, 12, 12), np.int16), labels_DHW, ONE_MM), image, TWO)
    assert rows.weight.tolist() == [2, 1]


def test_the_row_of_a_stone_shows_the_other_structures_round_it() -> None:
    labels_DHW = np.ones((12, 12, 12), np.uint8)
    labels_DHW[6, 6, 6] = 2
    image = ImageConfig(size=(4, 4, 4), window=(0, 1))
    rows = rows_of(Grid(np.zeros((12, 12, 12), np.int16), labels_DHW, ONE_MM), image, TWO)
    assert rows.mask_NS[0, 2, 2, 2] == 2
    assert (rows.mask_NS == 1).sum() == 63


def test_grey_images_are_padded_with_black_and_ct_with_air() -> None:
    image = ImageConfig(size=(4, 4, 4), rows="volume", window=(0, 1))
    grid = Grid(np.full((2, 2, 2), 50, np.int16), None, ONE_MM)
    for unit, outside in (("grey", 0), ("HU", -1000)):
        schema = TWO.model_copy(update={"unit": unit})
        found = rows_of(grid, image, schema).image_NS
        assert found[0, 0, 0, 0] == outside
        assert (found == 50).sum() == 8


def test_whole_images_without_a_known_spacing_are_resized() -> None:
    image = ImageConfig(size=(4, 4), rows="slice", window=(0, 1))
    grid = Grid(np.full((3, 8, 8), 7, np.int16), None, UNKNOWN)
    found = rows_of(grid, image, TWO).image_NS
    assert found.shape == (3, 4, 4)
    assert (found == 7).all()


@pytest.mark.parametrize(
    ("rows", "weight", "kept"),
    [
        ("lesion", [5, 9, 1, 9], [0, 1, 3]),
        ("slice", [0] * 9, [0, 4, 8]),
        ("slice", [0, 0], [0, 1]),
    ],
)
def test_the_largest_lesions_and_slices_evenly_apart_are_kept(
    rows: str, weight: list[int], kept: list[int]
) -> None:
    size = (4, 4) if rows == "slice" else (4, 4, 4)
    image = ImageConfig.model_validate(
        {"size": size, "rows": rows, "window": (0, 1), "max_rows_per_patient": 3}
    )
    assert kept_rows(np.array(weight), image).tolist() == kept


def test_lesions_need_a_schema_that_names_one() -> None:
    image = ImageConfig(size=(4, 4, 4), window=(0, 1))
    labels_DHW = np.ones((6, 6, 6), np.uint8)
    schema = TWO.model_copy(update={"lesion": None})
    with pytest.raises(ConfigError, match=r"image.lesion"):
        rows_of(Grid(np.zeros((6, 6, 6), np.int16), labels_DHW, ONE_MM), image, schema)


def test_a_spacing_in_the_wrong_unit_is_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(SiteDataError, match="voxels"):
        resampled(Grid(np.zeros((4, 64, 64), np.int16), None, (3, 900.0, 900.0)), (1, 1, 1))
