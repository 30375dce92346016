"""The classifiers of the CME paper: sizes, a head that bodies share, and what is refused."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.monitoring.layers import watched_layers
from fedward.common.parameters import shared_set
from fedward.common.randomness import seeded_global_torch
from tests.common.image_batches import images

NAMES = ["cme-resnet", "cme-densenet", "cme-alexnet"]
PIXELS_64 = ImageForm((64, 64), 0, 4)
every_body = pytest.mark.parametrize("name", NAMES)


def built(name: str, form: ImageForm = PIXELS_64, **own: Any) -> nn.Module:
    with seeded_global_torch(0):
        return build_image_model(name, form, {"preset": "small", **own})


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "body", "specified"),
    [
        # Of torchvision's networks, less their last layers and two of three input channels; group
        # normalisation has as many parameters as batch normalisation.
        ("cme-resnet", 25_557_032 - (2048 * 1000 + 1000) - 2 * 64 * 7 * 7, 23.79e6),
        ("cme-densenet", 7_978_856 - (1024 * 1000 + 1000) - 2 * 64 * 7 * 7, 7.10e6),
        # torchvision's has neither normalisations nor a skip with weights.
        (
            "cme-alexnet",
            2_469_696 - 2 * 64 * 11 * 11 + 2 * (64 + 192 + 384 + 256 + 256) + (192 * 256 + 256),
            2.57e6,
        ),
    ],
)
def test_the_published_bodies_have_the_parameters_of_torchvision(
    name: str, body: int, specified: float
) -> None:
    with torch.device("meta"):
        model = build_image_model(name, PIXELS_64, {})
    width = {"cme-resnet": 2048, "cme-densenet": 1024, "cme-alexnet": 256}[name]
    head = (width * 128 + 128) + (128 * 128 + 128) + (128 * 4 + 4)
    missing_image = width
    assert num_parameters(model) == body + head + missing_image
    # The specification counts three input channels, which are 6,272 and 15,488 parameters.
    assert num_parameters(model) == pytest.approx(specified, rel=0.007)


def test_bodies_that_differ_have_the_same_layers_to_share() -> None:
    shared = [shared_set(built(name), ["head.*"], strategy="fedavg") for name in NAMES]
    assert len({one.manifest_hash for one in shared}) == 1
    assert shared[0].size == (128 * 128 + 128) + (128 * 4 + 4)
    first = {shared_set(built(name), ["project.*"], strategy="fedavg").size for name in NAMES}
    assert len(first) == 3


@every_body
def test_the_watched_layer_lies_between_two_of_128_neurons(name: str) -> None:
    (layer,) = watched_layers(built(name), "penultimate")
    assert (layer.name, layer.num_rows, layer.num_columns) == ("head.0.weight", 128, 128)


@every_body
@pytest.mark.parametrize("size", [(64, 64), (65, 47), (33, 32), (33, 35, 40)])
def test_even_and_uneven_sizes_are_told_apart(name: str, size: tuple[int, ...]) -> None:
    form = ImageForm(size, 0, 4)
    batch = images(form, 2)
    batch["image"][1] = batch["image"][1] * 0.2
    logits_BC = built(name, form).eval()(batch)["label"]
    assert logits_BC.shape == (2, 4)
    assert not torch.allclose(logits_BC[0], logits_BC[1], atol=1e-5)


@every_body
def test_every_part_of_a_published_network_is_connected(name: str) -> None:
    form = ImageForm((32, 32), 0, 4)
    model = build_image_model(name, form, {})
    model(images(form, 2))["label"].sin().sum().backward()
    # Of the vector for a missing image nothing is seen here, and of one pixel normalised by group
    # a bias may be all that comes out.
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in idle if not n.endswith("bias")] == ["or_missing.missing"]


@pytest.mark.parametrize(
    ("name", "form", "own", "says"),
    [
        ("cme-resnet", ImageForm((64, 64), 1, 0), {}, "cme-resnet classifies, but the schema has"),
        ("cme-densenet", ImageForm((64, 31), 0, 4), {}, "of [64, 31] nothing is left at the end"),
        ("cme-densenet", PIXELS_64, {"width": 5}, "model.width"),
        ("cme-resnet", PIXELS_64, {"preset": "tiny"}, "model.preset"),
        ("cme-resnet", PIXELS_64, {"blocks": [1]}, "model.blocks: unknown key"),
        ("cme-alexnet", ImageForm((16, 16), 0, 4), {"norm": "instance"}, "one voxel is left"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    name: str, form: ImageForm, own: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        built(name, form, **own)
