"""The small network of images: its head, its sizes, and what it refuses."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.monitoring.layers import watched_layers
from fedward.common.randomness import seeded_global_torch
from tests.common.image_batches import images

PIXELS_64 = ImageForm((64, 64), 0, 4)


def built(form: ImageForm, **own: Any) -> nn.Module:
    with seeded_global_torch(0):
        return build_image_model("small-cnn", form, own)


def test_the_watched_layer_of_the_default_head_lies_between_two_of_128_neurons() -> None:
    (layer,) = watched_layers(built(PIXELS_64), "penultimate")
    assert (layer.num_rows, layer.num_columns) == (128, 128)
    names = [layer.name for layer in watched_layers(built(PIXELS_64), "all")]
    assert names[-3:] == ["body.0.weight", "body.2.weight", "head.weight"]
    assert len(names) == 6


@pytest.mark.parametrize(
    ("form", "own"),
    [
        (ImageForm((15, 16), 0, 4), {}),
        (ImageForm((17, 31), 0, 4), {}),
        (ImageForm((8, 9, 10), 0, 4), {"stem_stride": 1}),
        (ImageForm((4, 4), 0, 4), {"channels": [3], "norm": "instance"}),
        (ImageForm((2, 2), 0, 4), {"channels": [3], "stem_stride": 1, "dropout": 0.5}),
    ],
)
def test_the_smallest_and_uneven_sizes_can_be_told_apart(
    form: ImageForm, own: dict[str, Any]
) -> None:
    batch = images(form, 3)
    logits_BC = built(form, **own).eval()(batch)["label"]
    assert logits_BC.shape == (3, 4)
    assert not torch.allclose(logits_BC[0], logits_BC[1], atol=1e-6)


def test_where_a_thing_is_makes_a_difference() -> None:
    batch = images(PIXELS_64, 2)
    batch["image"] = torch.zeros(2, 1, 64, 64)
    batch["image"][0, :, 8:16, 8:16] = 1
    batch["image"][1, :, 40:48, 40:48] = 1
    logits_BC = built(PIXELS_64).eval()(batch)["label"]
    assert not torch.allclose(logits_BC[0], logits_BC[1], atol=1e-4)


@pytest.mark.parametrize(
    ("form", "own", "says"),
    [
        (ImageForm((64, 64), 1, 0), {}, "small-cnn classifies, but the schema has no label"),
        (ImageForm((14, 64), 0, 4), {}, "data.image.size: of [14, 64] nothing is left"),
        (ImageForm((16, 16), 0, 4), {"channels": [8] * 4}, "at least 31 a side"),
        (PIXELS_64, {"hidden": []}, "model.hidden"),
        (PIXELS_64, {"stem_stride": 3}, "model.stem_stride"),
        (PIXELS_64, {"width": 3}, "model.width: unknown key"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    form: ImageForm, own: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        built(form, **own)
