"""The three classifiers of the CME paper: a body each, and the same head of 128, 128 and C neurons.

| network | preset | first channels | blocks | parameters, 4 classes | CPU, 64 x 64 |
|---|---|---|---|---|---|
| `cme-resnet` | `published` | 64 | ResNet50 | 23.78 M | 72 ms |
| | `small` | 8 | ResNet50 | 0.42 M | 4 ms |
| `cme-densenet` | `published` | 64 | DenseNet121: 6, 12, 24, 16 | 7.10 M | 44 ms |
| | `small` | 24 | 2, 4, 6, 4 | 0.17 M | 3 ms |
| `cme-alexnet` | `published` | 64 | AlexNet | 2.56 M | 8 ms |
| | `small` | 16 | AlexNet | 0.18 M | 2 ms |

CPU: a sample forward and backward on one thread, in batches of 16 (of 4 where published).

Hospitals whose bodies differ share `head.*`: the layers of 128 to 128 and 128 to C neurons are
alike in all of them. The layer before, `project`, is not: it has as many inputs as the body has
features.

Source: Kumar et al. 2025, "Visualizing Dynamics of Federated Medical Models via Conversational
Memory Elements", ICPR 2024, LNCS 15312, section 3.2 and figure 2. Ours: group normalisation for
batch normalisation, and for AlexNet, which has none; one channel; where the skips of AlexNet lie,
which the paper leaves open; the small presets; 3D.

Legend: B rows, C classes, F features of the body; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Pool
from monai.networks.nets.densenet import DenseNet
from pydantic import Field
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.classification_nets import NORM, ResNetTrunk
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    OrMissing,
    needs_classes,
    needs_room,
    seen_image,
    set_normalisation,
)
from fedward.common.models.options import PositiveInt
from fedward.common.task import Batch

HEAD_WIDTH = 128
Preset = Literal["published", "small"]
EvenInt = Annotated[int, Field(ge=2, multiple_of=2)]
Blocks = Annotated[Sequence[PositiveInt], Field(min_length=1, max_length=6)]


class CmeClassifier(nn.Module):
    """Features of an image, and logits of them through linear layers of 128, 128 and C neurons.

    Args:
        form: of the images.
        body: maps images (B, 1, *size) to features (B, F).
        num_features: F.
    """

    def __init__(self, form: ImageForm, body: nn.Module, num_features: int) -> None:
        super().__init__()
        self.body = body
        self.or_missing = OrMissing(num_features)
        self.project = nn.Linear(num_features, HEAD_WIDTH)
        self.head = nn.Sequential(
            nn.Linear(HEAD_WIDTH, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, form.num_classes)
        )

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C)."""
        features_BF = self.or_missing(self.body(seen_image(batch, self)), batch["mask.image"])
        return {"label": self.head(torch.relu(self.project(features_BF)))}


def cme_resnet(
    form: ImageForm,
    *,
    preset: Preset = "published",
    width: PositiveInt | None = None,
    norm: Normalisation = "group",
) -> CmeClassifier:
    """Return ResNet50 with the head of the CME paper.

    Args:
        form: of the images.
        preset: see the table in the module.
        width: channels of the first stage.
        norm: `batch`, as published, couples the patients of a batch.

    Raises:
        ConfigError: there is no label, or the images are too small.
    """
    needs_classes(form, "cme-resnet")
    width = width or {"published": 64, "small": 8}[preset]
    body = ResNetTrunk(form, 50, width=width, stem_stride=2, norm=norm)
    return CmeClassifier(form, body, body.num_features)


def cme_densenet(
    form: ImageForm,
    *,
    preset: Preset = "published",
    width: EvenInt | None = None,
    blocks: Blocks | None = None,
    norm: Normalisation = "group",
) -> CmeClassifier:
    """Return DenseNet121 with the head of the CME paper.

    Args:
        form: of the images.
        preset: see the table in the module.
        width: channels of the first convolution; each layer adds half as many.
        blocks: layers of each dense block; every block but the first halves the image.
        norm: as in `cme_resnet`.

    Raises:
        ConfigError: there is no label, or the images are too small.
    """
    needs_classes(form, "cme-densenet")
    width = width or {"published": 64, "small": 24}[preset]
    blocks = blocks or {"published": (6, 12, 24, 16), "small": (2, 4, 6, 4)}[preset]
    body = _DenseBody(form, width, blocks, norm)
    return CmeClassifier(form, body, body.num_features)


def cme_alexnet(
    form: ImageForm,
    *,
    preset: Preset = "published",
    width: PositiveInt | None = None,
    norm: Normalisation = "group",
) -> CmeClassifier:
    """Return AlexNet with skip connections, and the head of the CME paper.

    Args:
        form: of the images.
        preset: see the table in the module.
        width: channels of the first convolution; the others have 3, 6, 4 and 4 times as many.
        norm: as in `cme_resnet`.

    Raises:
        ConfigError: there is no label, or the images are too small.
    """
    needs_classes(form, "cme-alexnet")
    width = width or {"published": 64, "small": 16}[preset]
    stem = (11, 4) if preset == "published" else (5, 2)
    body = _AlexNetBody(form, width, kernel=stem[0], stride=stem[1], norm=norm)
    return CmeClassifier(form, body, 4 * width)


class _DenseBody(nn.Module):
    """MONAI's DenseNet without its last layer, which has the features of all blocks."""

    def __init__(
        self, form: ImageForm, width: int, blocks: Sequence[int], norm: Normalisation
    ) -> None:
        super().__init__()
        step = 2 ** (len(blocks) + 1)
        if min(form.size) < step:
            raise ConfigError(
                f"data.image.size: of {list(form.size)} nothing is left at the end of "
                f"cme-densenet; expected at least {step} a side, or fewer model.blocks"
            )
        needs_room(form, (step,) * form.spatial_dims, norm)
        net = DenseNet(
            form.spatial_dims, 1, form.num_classes, init_features=width, growth_rate=width // 2,
            block_config=tuple(blocks), act=("relu", {"inplace": False}), norm=NORM,
        )  # fmt: skip
        self.features = net.features
        last = net.class_layers[-1]
        assert isinstance(last, nn.Linear)
        self.num_features = last.in_features
        set_normalisation(self, norm)

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, F)."""
        x = torch.relu(self.features(image))
        features_BF: Tensor = x.mean(tuple(range(2, x.dim())))
        return features_BF


class _AlexNetBody(nn.Module):
    """The five convolutions of AlexNet, with a skip over two of them and one over the last.

    Source: Krizhevsky 2014, arXiv:1404.5997, the variant with 64 channels first. Ours: a 1 x 1
    convolution carries the second layer's output over the third and fourth, and the fourth's goes
    over the fifth as it is; poolings keep the border, so that small images leave something.
    """

    def __init__(
        self, form: ImageForm, width: int, *, kernel: int, stride: int, norm: Normalisation
    ) -> None:
        super().__init__()
        dims = form.spatial_dims
        needs_room(form, (stride * 8,) * dims, norm)

        def layer(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
            return Convolution(
                dims, before, after, strides=stride, kernel_size=kernel, adn_ordering="NA",
                norm=NORM, act="relu",
            )  # fmt: skip

        self.first = layer(1, width, kernel, stride)
        self.second = layer(width, 3 * width, 5)
        self.third = layer(3 * width, 6 * width, 3)
        self.fourth = layer(6 * width, 4 * width, 3)
        self.fifth = layer(4 * width, 4 * width, 3)
        self.skip = Convolution(dims, 3 * width, 4 * width, kernel_size=1, conv_only=True)
        self.pool = Pool["max", dims](kernel_size=3, stride=2, padding=1)
        set_normalisation(self, norm)

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, F)."""
        x = self.pool(self.second(self.pool(self.first(image))))
        x = self.fourth(self.third(x)) + self.skip(x)
        x = self.pool(self.fifth(x) + x)
        features_BF: Tensor = x.mean(tuple(range(2, x.dim())))
        return features_BF
