"""ResFormer: its size, its two orders and ablations, odd sizes, and what is refused."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.models.multitask_parts import Decoder
from fedward.common.models.resformer import ResFormer
from fedward.common.randomness import seeded_global_torch
from tests.common.image_batches import images

FORM = ImageForm((32, 32), 1, 2)
SMALL: dict[str, Any] = {"preset": "small", "width": 4}
ORDERS = ["sequential", "parallel"]
every_order = pytest.mark.parametrize("order", ORDERS)


def network(form: ImageForm = FORM, **own: Any) -> ResFormer:
    with seeded_global_torch(0):
        model = build_image_model("resformer", form, {**SMALL, **own})
    assert isinstance(model, ResFormer)
    return model


def on_meta(form: ImageForm, **own: Any) -> int:
    with torch.device("meta"):
        model = build_image_model("resformer", form, own)
        outputs = model({**images(form, 1), "image": torch.zeros(1, 1, *form.size)})
    assert outputs["mask"].shape == (1, form.num_structures, *form.size)
    assert outputs["label"].shape == (1, form.num_classes)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("form", "own", "millions"),
    [
        # The sizes that the specification found for this build of the paper, to its two decimals.
        (ImageForm((224, 224), 1, 2), {}, 29.09),
        (ImageForm((224, 224), 1, 2), {"order": "parallel"}, 29.09),
        (ImageForm((224, 224), 1, 2), {"blocks": [3, 4, 6, 3]}, 45.47),
        (ImageForm((64, 64), 1, 2), {"preset": "small"}, 1.85),
        # Tables of 15 x 15 relative places for 13 x 13, and two structures more.
        (ImageForm((512, 512), 3, 4), {"window": 8}, 29.10),
    ],
)
def test_a_preset_has_the_parameters_of_the_specification(
    form: ImageForm, own: dict[str, Any], millions: float
) -> None:
    assert on_meta(form, **own) / 1e6 == pytest.approx(millions, abs=0.005)


def test_the_levels_have_the_widths_heads_and_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        model = build_image_model("resformer", ImageForm((224, 224), 1, 2), {})
        assert isinstance(model, ResFormer)
        sizes: list[tuple[int, ...]] = []
        for level in model.levels:
            level.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
        model({"image": torch.zeros(1, 1, 224, 224), "mask.image": torch.ones(1).bool()})
    assert sizes == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14)]
    levels: Any = model.levels
    heads = [level.swin.blocks[0].attn.heads for level in levels]
    assert heads == [2, 4, 8, 16]
    assert model.head is not None
    assert model.head.layers[0].weight.shape == (128, 256 + 512)


@every_order
@pytest.mark.parametrize("size", [(33, 47), (71, 71), (16, 17), (18, 20, 17)])
def test_uneven_sizes_give_masks_of_that_size(order: str, size: tuple[int, ...]) -> None:
    form = ImageForm(size, 1, 2)
    outputs = network(form, order=order)(images(form, 1))
    assert outputs["mask"].shape == (1, 1, *size)
    assert all(value.isfinite().all() for value in outputs.values())


@every_order
def test_both_tasks_reach_the_whole_encoder_and_only_their_own_head(order: str) -> None:
    model = network(order=order)
    outputs = model(images(FORM, 3))
    for task, other in (("mask", "head"), ("label", "decoder")):
        model.zero_grad()
        outputs[task].sin().sum().backward(retain_graph=True)
        reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        encoder = {
            n
            for n, _ in model.named_parameters()
            if n.startswith(("stem", "downs", "levels")) and not n.endswith("bias")
        }
        assert encoder <= reached
        assert not {n for n in reached if n.startswith(other)}


def test_several_structures_are_rare_before_anything_is_learnt() -> None:
    form = ImageForm((32, 32), 3, 2)
    share_BKHW = torch.sigmoid(network(form)(images(form, 4))["mask"])
    share_K = share_BKHW.mean((0, 2, 3))
    assert ((share_K > 0.01) & (share_K < 0.15)).all()


def test_sequential_and_parallel_are_the_same_parts_joined_otherwise() -> None:
    one, other = network(), network(order="parallel")
    other.load_state_dict(one.state_dict())
    batch = images(FORM, 1)
    assert not torch.allclose(one(batch)["label"], other(batch)["label"], atol=1e-4)
    # With nothing to add, the attention hands on what it is given: Res(x), or x itself.
    x = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (one, other):
        for block in model.levels[0].swin.blocks:  # type: ignore[union-attr]
            for layer in (block.attn.proj, block.mlp.linear2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
    local = one.levels[0].residual(x)  # type: ignore[operator]
    torch.testing.assert_close(one.levels[0](x), local)
    torch.testing.assert_close(other.levels[0](x), local + x)


def test_the_enhancement_sees_further_than_a_plain_skip() -> None:
    def reach(*, dfe: bool) -> int:
        decoder = network(ImageForm((128, 128), 1, 0), dfe=dfe).decoder
        assert isinstance(decoder, Decoder)
        level = torch.ones(1, 4, 64, 64).requires_grad_()
        for weight in decoder.skips[0].parameters():
            weight.data.fill_(0.01)  # so that neither ReLU nor sigmoid hides anything
        if dfe:  # three dilations of 3 x 3, and the place-by-place weights of 7 x 7
            for norm in [m for m in decoder.modules() if isinstance(m, nn.GroupNorm)]:
                norm.forward = lambda input: input  # type: ignore[method-assign] # noqa: A006
        decoder.skips[0](level)[0, :, 32, 32].sum().backward()
        assert level.grad is not None
        seen = level.grad[0].abs().sum(0).nonzero()
        return int((seen - 32).abs().max())

    assert reach(dfe=False) == 0
    assert reach(dfe=True) == 18 + 3


def test_a_single_task_is_built_without_what_only_the_other_needs() -> None:
    batch = images(FORM, 1)
    both = network()
    only = {task: network(tasks=[task]) for task in ("mask", "label")}
    for task, model in only.items():
        assert set(model(batch)) == {task}
    assert only["label"].decoder is None
    assert only["mask"].head is None
    plain = network(dfe=False)
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in both.parameters())
    assert set(network(ImageForm((32, 32), 1, 0))(batch)) == {"mask"}
    assert set(network(ImageForm((32, 32), 0, 2))(batch)) == {"label"}


@pytest.mark.parametrize(
    ("form", "own", "says"),
    [
        (ImageForm((32, 32), 0, 0), {}, "resformer has nothing to learn"),
        (ImageForm((32, 32), 0, 2), {"tasks": ["mask"]}, "model.tasks: mask is asked for"),
        (ImageForm((32, 32), 1, 0), {"tasks": ["label"]}, "the schema names no label"),
        (FORM, {"tasks": []}, "model.tasks"),
        (FORM, {"tasks": ["signs"]}, "model.tasks[0]"),
        (FORM, {"width": 5}, "model.width: 5; expected a multiple of 2"),
        (FORM, {"blocks": [1, 1]}, "model.blocks"),
        (FORM, {"order": "serial"}, "model.order"),
        (ImageForm((16, 16), 1, 2), {"norm": "instance"}, "one voxel is left"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    form: ImageForm, own: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        network(form, **own)
