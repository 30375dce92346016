"""DSMT-Net: its size, its two scales, what guides what, missing signs, and its two stages."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedward.client.bundle_images import ImageNetwork, output_channels
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError
from fedward.common.images.signs import signs_loss
from fedward.common.models.dsmt_net import NOTHING, DSMTNet
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch
from tests.common.image_batches import SIGNS, images

FORM = ImageForm((16, 16, 16), 1, 2, None, SIGNS)
SMALL: dict[str, Any] = {"preset": "small", "widths": [4, 8]}


def network(form: ImageForm = FORM, **own: Any) -> DSMTNet:
    with seeded_global_torch(0):
        model = build_image_model("dsmt-net", form, {**SMALL, **own})
    assert isinstance(model, DSMTNet)
    return model


def reached(model: DSMTNet, value: Tensor) -> set[str]:
    """Return the names of the weights on which `value` depends; biases may be normalised away."""
    model.zero_grad()
    value.sin().sum().backward(retain_graph=True)
    return {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any() and not name.endswith("bias")
    }


def of(model: DSMTNet, *starts: str) -> set[str]:
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith(starts) and not name.endswith("bias")
    }


@pytest.mark.parametrize(
    ("preset", "side", "specified"),
    # The specification's prototype, of which only the sizes are written down, had 13.61 and 3.43
    # million; ours differs by the two weights of the gate and the 64 neurons of the heads.
    [("published", 192, 13.61e6), ("medium", 96, 3.43e6)],
)
def test_a_preset_has_about_the_parameters_of_the_specification(
    preset: str, side: int, specified: float
) -> None:
    with torch.device("meta"):
        form = ImageForm((side,) * 3, 1, 2, None, SIGNS)
        model = build_image_model("dsmt-net", form, {"preset": preset})
        outputs = model(
            {"image": torch.zeros(1, 1, *form.size), "mask.image": torch.ones(1).bool()}
        )
    assert outputs["mask"].shape == (1, 1, *form.size)
    assert (outputs["label"].shape, outputs["signs"].shape) == ((1, 2), (1, 2))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(specified, rel=0.005)


def test_the_published_scales_are_48_voxels_up_close_and_96_around() -> None:
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _, given: sizes.update({name: tuple(given[0].shape[2:])})

    with torch.device("meta"):
        form = ImageForm((192,) * 3, 1, 2, None, SIGNS)
        model = build_image_model("dsmt-net", form, {})
        assert isinstance(model, DSMTNet)
        assert model.surroundings is not None
        model.local.register_forward_pre_hook(note("local"))
        model.surroundings.register_forward_pre_hook(note("surroundings"))
        model({"image": torch.zeros(1, 1, 192, 192, 192), "mask.image": torch.ones(1).bool()})
    assert sizes == {"local": (48, 48, 48), "surroundings": (96, 96, 96)}


@pytest.mark.parametrize("size", [(17, 19, 16), (9, 8, 13), (23, 31)])
def test_masks_of_uneven_sizes_lie_in_the_middle_and_are_nothing_round_it(
    size: tuple[int, ...],
) -> None:
    model = network(ImageForm(size, 2, 2, None, SIGNS))
    mask = model(images(ImageForm(size, 2, 2, None, SIGNS), 1))["mask"]
    assert mask.shape == (1, 2, *size)
    inside = tuple(slice((a - a // 2) // 2, (a - a // 2) // 2 + a // 2) for a in size)
    assert (mask[(slice(None), slice(None), *inside)] != NOTHING).all()
    assert int((mask == NOTHING).sum()) == mask.numel() - 2 * int(mask[(0, 0, *inside)].numel())


def test_the_class_sees_the_surroundings_only_where_there_are_two_scales() -> None:
    batch = images(FORM, 1)
    changed = {**batch, "image": batch["image"].clone()}
    changed["image"][..., :3] = 0  # outside the middle, 4 to 12
    for scales, sees in (("both", True), ("middle", False)):
        model = network(scales=scales)
        outputs, others = model(batch), model(changed)
        assert torch.equal(outputs["label"], others["label"]) != sees
        assert torch.equal(outputs["mask"], others["mask"])


def test_each_task_reaches_the_encoders_and_no_other_head() -> None:
    model = network()
    outputs = model(images(FORM, 3))
    by_mask = reached(model, outputs["mask"])
    assert of(model, "local.", "decoder.") == by_mask
    by_label = reached(model, outputs["label"])
    assert by_label >= of(model, "local.", "surroundings.", "gate.", "heads.label.")
    assert not by_label & of(model, "decoder.", "heads.sign-")
    by_sign = reached(model, outputs["signs"][:, 1])
    assert by_sign >= of(model, "local.", "surroundings.", "heads.sign-retraction.")
    assert not by_sign & of(model, "decoder.", "heads.label.", "heads.sign-lucency.")


def test_the_class_is_told_what_lies_under_the_mask() -> None:
    model, batch = network(), images(FORM, 1)
    assert model.decoder is not None
    before = model(batch)["label"]
    with torch.no_grad():
        model.decoder.out.conv.bias += torch.linspace(0, 3, 1)  # type: ignore[operator, union-attr]
        model.decoder.out.conv.weight *= 4  # type: ignore[operator, union-attr]
    assert not torch.equal(model(batch)["label"], before)
    without = network(tasks=["label", "signs"])
    assert without.decoder is None
    assert set(without(batch)) == {"label", "signs"}
    assert without.or_missing.missing.shape == (2 * 8,)
    assert model.or_missing.missing.shape == (3 * 8,)


def test_a_sign_that_nobody_looked_for_trains_nothing() -> None:
    model, batch = network(), images(FORM, 3)
    signs_BS = torch.tensor([[1, -1], [-1, -1], [0, -1]], dtype=torch.int8)
    losses = signs_loss(model(batch)["signs"], signs_BS)
    assert losses[1] == 0
    losses.sum().backward()
    heads = {name: p.grad for name, p in model.named_parameters() if name.startswith("heads.sign")}
    assert all(g is not None and g.any() for n, g in heads.items() if "lucency" in n)
    assert not any(g is not None and g.any() for n, g in heads.items() if "retraction" in n)


def test_a_single_task_is_built_without_the_parts_of_the_others() -> None:
    batch = images(FORM, 1)
    of_label = network(tasks=["label"], scales="middle")
    assert set(of_label(batch)) == {"label"}
    assert of_label.decoder is None
    assert of_label.surroundings is None
    assert list(of_label.heads) == ["label"]
    assert set(network(ImageForm((16,) * 3, 1, 2))(batch)) == {"mask", "label"}


def test_the_second_stage_starts_from_the_first_and_trains_the_label_alone() -> None:
    first, second = network(), network(stage="label")
    second.load_state_dict(first.state_dict())
    batch = images(FORM, 2)
    for name, value in second.eval()(batch).items():
        assert torch.equal(value, first.eval()(batch)[name])
    outputs = second.train()(batch)
    assert set(outputs) == {"label"}
    before = {name: value.clone() for name, value in second.state_dict().items()}
    trained = [p for p in second.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 0.01)
    functional.cross_entropy(outputs["label"], batch["label"]).backward()
    optimizer.step()
    moved = {n for n, value in second.state_dict().items() if not torch.equal(value, before[n])}
    stays = of(second, "decoder.", "heads.sign-", "local.levels.0", "surroundings.levels.0")
    assert not moved & stays
    assert moved >= of(second, "heads.label.", "gate.", "local.levels.1", "surroundings.levels.1")


def test_a_mask_of_the_middle_is_no_answer_about_a_scan() -> None:
    image = ImageConfig(size=FORM.size, window=(0, 1))
    for middle, answers in ((2, {"label"}), (1, {"mask", "label"})):
        assert set(output_channels(ImageNetwork(network(middle=middle)), image)) == answers


@pytest.mark.parametrize(
    ("form", "own", "says"),
    [
        (ImageForm((16,) * 3, 0, 0), {}, "dsmt-net has nothing to learn"),
        (ImageForm((16,) * 3, 1, 2), {"tasks": ["signs"]}, "the schema names no signs"),
        (FORM, {"stage": "label", "tasks": ["signs"]}, "model.stage: label trains the label"),
        (FORM, {"tasks": ["mask"]}, "model.tasks: for a mask alone"),
        (ImageForm((16,) * 3, 1, 0), {}, "model.tasks: for a mask alone"),
        (FORM, {"middle": 17}, "model.middle: of [16, 16, 16] voxels 1/17 is nothing"),
        (FORM, {"coarser": 17}, "model.coarser: of [16, 16, 16] voxels nothing is left by 17"),
        (FORM, {"widths": [8]}, "model.widths"),
        (FORM, {"scales": "middel"}, "model.scales"),
        (FORM, {"norm": "instance", "widths": [4, 4, 4, 4]}, "one voxel is left"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    form: ImageForm, own: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        network(form, **own)


def balls(num_rows: int, *, seed: int) -> Batch:
    """Return balls in noise: their grey is the label, a hole in them one sign, a strand the other.

    Each sign is known of half of the rows.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = images(FORM, num_rows, seed=seed)
    place = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    centre = 6.5 + 2 * torch.rand(num_rows, 3, 1, 1, 1, generator=generator)
    distance = (place - centre).norm(dim=1)
    mask = distance < 3.2
    label = torch.randint(0, 2, (num_rows,), generator=generator)
    signs_BS = torch.randint(0, 2, (num_rows, 2), generator=generator)
    grey = 0.2 + mask * (0.3 + 0.3 * label).view(-1, 1, 1, 1)
    hole = (distance < 1.6) & signs_BS[:, 0].bool().view(-1, 1, 1, 1)
    grey = torch.where(hole, 0.0, grey)
    beside = ((place[0] - 8).abs() < 2) & (place[1] > 12)
    grey = torch.where(beside & signs_BS[:, 1].bool().view(-1, 1, 1, 1), 0.9, grey)
    noise = 0.03 * torch.randn(grey.shape, generator=generator)
    known = torch.rand(num_rows, 2, generator=generator) < 0.5
    batch |= {"image": (grey + noise).unsqueeze(1), "mask": mask.byte(), "label": label}
    return batch | {"signs": torch.where(known, signs_BS, -1).to(torch.int8), "truth": signs_BS}


@pytest.mark.slow
def test_label_mask_and_signs_of_which_half_are_missing_can_be_learnt() -> None:
    model = network(widths=[8, 16]).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    batch = balls(96, seed=0)
    for step in range(150):
        part = {key: value[step % 6 * 16 :][:16] for key, value in batch.items()}
        outputs = model(part)
        loss = functional.cross_entropy(outputs["label"], part["label"])
        loss = loss + signs_loss(outputs["signs"], part["signs"]).mean()
        loss = loss + functional.binary_cross_entropy_with_logits(
            outputs["mask"][:, 0], part["mask"].float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = balls(150, seed=1)
    with torch.no_grad():
        outputs = model.eval()(fresh)
    found, truth = outputs["mask"][:, 0] > 0, fresh["mask"] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7
    # Chance is .5, and its upper bound for 150 rows at one in a million .7.
    assert (outputs["label"].argmax(1) == fresh["label"]).float().mean() > 0.8
    assert (((outputs["signs"] > 0) == fresh["truth"].bool()).float().mean(0) > 0.8).all()
