"""Residual networks that classify images, in 2D and 3D.

Legend: B rows, C classes, W features; `*size` are D, H, W or H, W.
"""

from typing import Literal

from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Pool
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    OrMissing,
    needs_classes,
    needs_room,
    seen_image,
    set_normalisation,
)
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.task import Batch

Depth = Literal[10, 18, 34, 50]
BLOCKS: dict[int, tuple[int, ...]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}
NORM = ("instance", {"affine": True})


class ResNet(nn.Module):
    """A residual network and a linear layer on the mean of its last feature maps.

    Args:
        depth: layers with weights; 50 has bottleneck blocks.
        width: channels of the first stage; 64 as published.
        stem_stride: of the first convolution: 2 as published, 1 for small crops.
        norm: `group` keeps what `instance` forgets, how bright an image is; `batch`, as
            published, couples the patients of a batch.
        dropout: before the last layer.

    Source: He et al. 2016, arXiv:1512.03385; in 3D Hara et al. 2018, arXiv:1711.09577.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        depth: Depth = 18,
        width: PositiveInt = 64,
        stem_stride: Literal[1, 2] = 1,
        norm: Normalisation = "group",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        needs_classes(form, "resnet3d")
        self.trunk = ResNetTrunk(form, depth, width=width, stem_stride=stem_stride, norm=norm)
        self.or_missing = OrMissing(self.trunk.num_features)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Linear(self.trunk.num_features, form.num_classes)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C)."""
        features_BW = self.or_missing(self.trunk(seen_image(batch, self)), batch["mask.image"])
        return {"label": self.head(self.dropout(features_BW))}


class ResNetTrunk(nn.Module):
    """Stem and four stages. The blocks are MONAI's; its ResNet hands them no norm but batch's."""

    def __init__(
        self, form: ImageForm, depth: int, *, width: int, stem_stride: int, norm: Normalisation
    ) -> None:
        super().__init__()
        dims = form.spatial_dims
        needs_room(form, (16 * stem_stride,) * dims, norm)
        self.stem = nn.Sequential(
            Convolution(
                dims, 1, width, strides=stem_stride, kernel_size=7, bias=False, adn_ordering="NA",
                norm=NORM, act="relu",
            ),
            Pool["max", dims](kernel_size=3, stride=2, padding=1),
        )  # fmt: skip
        block = ResNetBottleneck if depth == 50 else ResNetBlock
        stages: list[nn.Module] = []
        channels = width
        for number, num_blocks in enumerate(BLOCKS[depth]):
            planes = width * 2**number
            for place in range(num_blocks):
                stride = 2 if number and not place else 1
                stages.append(_block(block, channels, planes, dims=dims, stride=stride))
                channels = planes * block.expansion
        self.stages = nn.Sequential(*stages)
        self.num_features = channels
        set_normalisation(self, norm)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, W) of images (B, 1, *size)."""
        x = self.stages(self.stem(image))
        features_BW: Tensor = x.mean(tuple(range(2, x.dim())))
        return features_BW


def _block(
    block: type[ResNetBlock | ResNetBottleneck],
    channels: int,
    planes: int,
    *,
    dims: int,
    stride: int,
) -> nn.Module:
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = Convolution(
            dims, channels, out, strides=stride, kernel_size=1, bias=False, adn_ordering="N",
            norm=NORM,
        )  # fmt: skip
    return block(channels, planes, dims, stride, downsample=shortcut, norm=NORM)
