"""ResFormer: one encoder of convolutions and attention, for masks and for the class of an image.

| preset | for | first channels | window | parameters, 1 structure, 2 classes |
|---|---|---|---|---|
| `published` | 224 x 224 (ISIC) | 64 | 7 | 29.09 M |
| `published`, `window: 8` | 512 x 512 (OCT) | 64 | 8 | 29.10 M |
| `small` | 64 x 64 | 16 | 4 | 1.85 M |

Four levels at 1/2 to 1/16 of the image. The means of the last two are classified; all four go to
the decoder, each through a dilated enhancement (DFE). The paper's loss, 0.25 weighted cross-entropy
and 1 Dice, is `loss: {classification: [bce], class_balance: [1, 3], segmentation: dice, weights:
fixed, class_weight: 0.2}`, with a figure of `class_balance` per class.

Source: "Multi-scale Feature Enhancement in Multi-task Learning for Medical Image Analysis", whose
repository (github.com/nguyenpbui/ResFormer) holds no code. What the paper leaves open, and is ours:
the stem's stride of 1 before the pooling, so that the first level is at 1/2; the window; one
residual block per level (`blocks: [3, 4, 6, 3]`, as ResNet34, has 45.47 M); 128 neurons between the
two layers of the head; linear interpolation. What differs: group for batch normalisation; one
channel; a sigmoid per structure for a softmax over them and the background; one class per image.

Legend: B rows, C classes, K structures, F features; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Pool
from pydantic import Field
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    OrMissing,
    needs_room,
    seen_image,
    set_normalisation,
)
from fedward.common.models.multitask_parts import (
    BasicBlock,
    Decoder,
    convolved,
    mean_of_space,
    tasks_of,
    two_layers,
)
from fedward.common.models.options import PositiveInt
from fedward.common.models.swin import SwinPair
from fedward.common.task import Batch

HEADS = (2, 4, 8, 16)
HEAD_WIDTH = 128
LOWEST = 16
"""How much smaller the last level is than the image."""
DILATIONS = (6, 12, 18)
OFFERED = ("mask", "label")
Preset = Literal["published", "small"]
Order = Literal["sequential", "parallel"]
Tasks = Annotated[Sequence[Literal["mask", "label"]], Field(min_length=1)]
Fourfold = Annotated[Sequence[PositiveInt], Field(min_length=4, max_length=4)]


@dataclass(frozen=True)
class _Size:
    width: int
    window: int


PRESETS = {"published": _Size(width=64, window=7), "small": _Size(width=16, window=4)}


class ResFormer(nn.Module):
    """Answers `mask` and `label`, or the one that is asked for.

    Args:
        preset: see the table in the module.
        order: whether attention follows the convolutions of a level, or stands beside them.
        width: channels of the first level, a multiple of 2; each level has twice as many.
        window: of the attention, in voxels of the level; best if it divides the level's size.
        blocks: residual blocks of each level.
        dfe: whether skips go through the dilated enhancement (the paper's table 9).
        tasks: `mask` and `label`, or one of them (table 8); absent: what the schema names.
        norm: `batch`, as published, couples the patients of a batch.

    Raises:
        ConfigError: the schema does not name what `tasks` asks for, or a key does not fit.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        preset: Preset = "published",
        order: Order = "sequential",
        width: PositiveInt | None = None,
        window: PositiveInt | None = None,
        blocks: Fourfold = (1, 1, 1, 1),
        dfe: bool = True,
        tasks: Tasks | None = None,
        norm: Normalisation = "group",
    ) -> None:
        super().__init__()
        wanted = tasks_of(form, tasks, offered=OFFERED, name="resformer")
        dims = form.spatial_dims
        needs_room(form, (LOWEST,) * dims, norm)
        size = _Size(width or PRESETS[preset].width, window or PRESETS[preset].window)
        if size.width % HEADS[0]:
            raise ConfigError(f"model.width: {size.width}; expected a multiple of {HEADS[0]}")
        widths = [size.width * 2**level for level in range(len(HEADS))]
        self.stem = convolved(dims, (1, size.width), kernel=7)
        self.pool = Pool["max", dims](kernel_size=3, stride=2, padding=1)
        self.downs = nn.ModuleList(
            nn.Identity() if above is None else convolved(dims, (above, below), stride=2)
            for above, below in pairwise([None, *widths])
        )
        self.levels = nn.ModuleList(
            ResFormerBlock(
                dims, width, heads=heads, window=size.window, num_residual=count, order=order
            )
            for width, heads, count in zip(widths, HEADS, blocks, strict=True)
        )
        self.decoder = self.head = None
        if "label" in wanted:
            self.head = _MultiScaleHead(widths[-2] + widths[-1], form.num_classes)
        if "mask" in wanted:
            refine = partial(DilatedEnhancement, dims) if dfe else nn.Identity
            self.decoder = Decoder(dims, widths, form.num_structures, refine=refine)
        set_normalisation(self, norm)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `mask` (B, K, *size) and `label` (B, C), logits both, as far as they are built."""
        image = seen_image(batch, self)
        x = self.pool(torch.relu(self.stem(image)))
        levels = []
        for down, level in zip(self.downs, self.levels, strict=True):
            x = level(down(x))
            levels.append(x)
        outputs: ImageOutputs = {}
        if self.decoder is not None:
            outputs["mask"] = self.decoder(levels, image.shape[2:])
        if self.head is not None:
            outputs["label"] = self.head(levels[-2:], batch["mask.image"])
        return outputs


class ResFormerBlock(nn.Module):
    """Residual blocks and a pair of Swin blocks: one after the other, or side by side and summed.

    Args:
        dims: axes of the images.
        width: channels.
        heads: of the attention.
        window: of the attention.
        num_residual: residual blocks.
        order: `sequential`: Swin(Res(x)); `parallel`: Res(x) + Swin(x).

    Source: the paper's section 3.1.
    """

    def __init__(  # noqa: PLR0913 - the sizes of one block
        self, dims: int, width: int, *, heads: int, window: int, num_residual: int, order: Order
    ) -> None:
        super().__init__()
        self.order = order
        self.residual = nn.Sequential(*(BasicBlock(dims, width) for _ in range(num_residual)))
        self.swin = SwinPair(dims, width, heads=heads, window=window)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps of the same shape."""
        local = self.residual(x)
        out: Tensor = self.swin(local) if self.order == "sequential" else local + self.swin(x)
        return out


class DilatedEnhancement(nn.Module):
    """Three dilated convolutions side by side, summed, then weighed place by place.

    Source: the paper's section 3.2; the weights by Woo et al. 2018, "CBAM", arXiv:1807.06521.
    """

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                convolved(dims, (width, width), dilation=dilation),
                convolved(dims, (width, width), kernel=1),
            )
            for dilation in DILATIONS
        )
        self.attention = Convolution(dims, 2, 1, kernel_size=7, bias=False, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps of the same shape."""
        x = torch.relu(torch.stack([branch(x) for branch in self.branches]).sum(0))
        facts = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.attention(facts))


class _MultiScaleHead(nn.Module):
    """Two linear layers on the means of several levels, side by side."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.or_missing = OrMissing(num_features)
        self.layers = two_layers(num_features, HEAD_WIDTH, num_classes)

    def forward(self, levels: Sequence[Tensor], has_image_B: Tensor) -> Tensor:
        """Return logits (B, C)."""
        features_BF = torch.cat([mean_of_space(level) for level in levels], dim=1)
        logits_BC: Tensor = self.layers(self.or_missing(features_BF, has_image_B))
        return logits_BC
