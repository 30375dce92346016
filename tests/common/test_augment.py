"""Augmentation: per row, image and mask together, and nothing where there is nothing."""

from typing import get_args

import pytest
import torch

from fedward.common.images.augment import Kind, augment
from fedward.common.models.image_form import ImageForm
from fedward.common.randomness import torch_generator
from fedward.common.task import Batch
from tests.common.image_batches import FORM_2D, FORM_3D, images

KINDS: tuple[Kind, ...] = get_args(Kind)


def rng(seed: int = 0) -> torch.Generator:
    return torch_generator(seed, purpose="augment")


def marked(form: ImageForm, num_rows: int) -> Batch:
    """Return dark rows with a bright box off the middle that is the mask too."""
    batch = images(form, num_rows)
    mask = torch.zeros(num_rows, *form.size, dtype=torch.uint8)
    mask[(slice(None), *(slice(side // 8, side // 2) for side in form.size))] = 1
    return {**batch, "mask": mask, "image": (0.1 + 0.6 * mask).unsqueeze(1).half()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [FORM_2D, FORM_3D], ids=["2d", "3d"])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_forms_types_and_other_keys_stay(kind: Kind, form: ImageForm, num_rows: int) -> None:
    batch = images(form, num_rows)
    changed = augment(batch, kind, rng())
    assert changed.keys() == batch.keys()
    for key, value in changed.items():
        assert value.shape == batch[key].shape
        assert value.dtype == batch[key].dtype
        if key not in ("image", "mask"):
            assert value is batch[key]
    assert changed["image"].isfinite().all()
    if num_rows:
        assert 0 <= changed["image"].min() <= changed["image"].max() <= 1
    assert set(changed["mask"].unique().tolist()) <= {0, 1, 2}


def test_none_changes_nothing_and_draws_nothing() -> None:
    batch, generator = images(FORM_2D, 3), rng()
    before = generator.get_state()
    assert augment(batch, "none", generator) is batch
    assert torch.equal(generator.get_state(), before)


def test_flips_move_image_and_mask_together_and_rows_differ() -> None:
    batch = marked(FORM_3D, 32)
    changed = augment(batch, "flips", rng())
    assert torch.equal(changed["image"][:, 0] > 0.4, changed["mask"] == 1)
    assert torch.equal(changed["image"].flatten(1).sum(1), batch["image"].flatten(1).sum(1))
    kinds = {row.numpy().tobytes() for row in changed["mask"]}
    assert len(kinds) == 8  # three axes; a kind is missed once in 8 * (7 / 8) ** 32 = 11 %


@pytest.mark.parametrize("size", [(32, 32), (16, 32, 32)])
def test_full_moves_image_and_mask_together(size: tuple[int, ...]) -> None:
    batch = marked(ImageForm(size, 1, 2), 64)
    changed = augment(batch, "full", rng())
    bright = changed["image"][:, 0].float() > 0.4
    mask = changed["mask"] == 1
    overlap = (
        2 * (bright & mask).flatten(1).sum(1) / (bright.flatten(1).sum(1) + mask.flatten(1).sum(1))
    )
    # Nearest against linear at the border, and noise; boxes that moved apart would share nothing.
    assert overlap.min() > 0.85
    moved = [not torch.equal(a, b) for a, b in zip(changed["mask"], batch["mask"], strict=True)]
    assert sum(moved) > 32


def test_a_turn_keeps_lengths_in_mm_where_voxels_are_not_square() -> None:
    form = ImageForm((64, 32), 1, 2)
    batch = images(form, 200)
    mask = torch.zeros(200, 64, 32, dtype=torch.uint8)
    mask[:, 20:44, 10:22] = 1  # 24 mm by 24 mm
    batch = {**batch, "mask": mask, "spacing_mm": torch.tensor([[1.0, 1.0, 2.0]]).repeat(200, 1)}
    changed = augment(batch, "full", rng())["mask"]
    area = changed.flatten(1).sum(1).float() / (24 * 12)
    assert area.min() > 0.85**2 - 0.1
    assert area.max() < 1.2**2 + 0.1
    # A square stays a square: as wide as high, within its corners' turn of 15 degrees.
    height = changed.any(2).sum(1).float()
    width = 2.0 * changed.any(1).sum(1).float()
    assert ((width / height) - 1).abs().max() < 0.2


def test_the_same_generator_gives_the_same_rows() -> None:
    batch = images(FORM_3D, 6)
    first, second = (augment(batch, "full", rng(3)) for _ in range(2))
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["mask"], second["mask"])
    assert not torch.equal(first["image"], augment(batch, "full", rng(4))["image"])


def test_a_row_does_not_depend_on_what_the_others_show() -> None:
    batch = images(FORM_3D, 6)
    other = {**batch, "image": batch["image"].clone(), "mask": batch["mask"].clone()}
    other["image"][1:], other["mask"][1:] = 0.3, 0
    first, second = (augment(one, "full", rng()) for one in (batch, other))
    assert torch.equal(first["image"][0], second["image"][0])
    assert torch.equal(first["mask"][0], second["mask"][0])


def test_a_row_without_an_image_keeps_its_zeros_and_the_source_is_untouched() -> None:
    batch = images(FORM_3D, 24)
    batch["image"][::2] = 0
    batch["mask.image"][::2] = False
    before = batch["image"].clone()
    assert not augment(batch, "full", rng())["image"][::2].any()
    assert torch.equal(batch["image"], before)
