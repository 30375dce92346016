"""What networks of several tasks share: which tasks are learnt, blocks, and a decoder.

Legend: B rows, K structures; `*size` are D, H, W or H, W.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm

FIRST_SHARE = 0.05
"""What each of several structures takes of an image before anything is learnt; one takes a half.

From a half, features first learn to say no everywhere. Those that a ReLU silences where a structure
is cannot learn which one it is: with three kinds of fluid in OCT two were never told apart, while
one structure needs no more than that silence. Source: Lin et al. 2017, "Focal Loss",
arXiv:1708.02002, section 4.1, who start from 0.01.
"""
NORM = ("instance", {"affine": True})
INTERPOLATION: dict[int, Literal["bilinear", "trilinear"]] = {2: "bilinear", 3: "trilinear"}
WHAT = {
    "mask": "structures (image.structures)",
    "label": "label",
    "signs": "signs",
}
"""By task: what of a schema it needs."""


def tasks_of(
    form: ImageForm, asked: Sequence[str] | None, *, offered: Sequence[str], name: str
) -> frozenset[str]:
    """Return which tasks a network learns: those asked for, or all that the schema names.

    Args:
        form: what the schema names.
        asked: of `model.tasks`; None: all.
        offered: what the network can learn, of `mask`, `label` and `signs`.
        name: of the network.

    Raises:
        ConfigError: the schema does not name what is asked for, or nothing that is offered.
    """
    counts = {"mask": form.num_structures, "label": form.num_classes, "signs": len(form.signs)}
    named = frozenset(task for task in offered if counts[task])
    if not named:
        raise ConfigError(
            f"model.name: {name} has nothing to learn; the schema names none of "
            f"{', '.join(WHAT[task] for task in offered)}"
        )
    for task in asked or ():
        if task not in named:
            raise ConfigError(
                f"model.tasks: {task} is asked for, but the schema names no {WHAT[task]}"
            )
    return named if asked is None else frozenset(asked)


def convolved(
    dims: int, channels: tuple[int, int], *, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Module:
    """Return a convolution and its normalisation; `channels` are those before and after it."""
    return Convolution(
        dims, *channels, strides=stride, kernel_size=kernel, dilation=dilation, bias=False,
        adn_ordering="N", norm=NORM,
    )  # fmt: skip


def two_layers(before: int, hidden: int, after: int) -> nn.Sequential:
    """Return two linear layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Linear(hidden, after))


def mean_of_space(x: Tensor) -> Tensor:
    """Return (B, C), the means of feature maps (B, C, *size)."""
    return x.mean(tuple(range(2, x.dim())))


class BasicBlock(nn.Module):
    """The block of ResNet34. MONAI's adds in place, which hooks per sample cannot take.

    Source: He et al. 2016, arXiv:1512.03385.
    """

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.first = convolved(dims, (width, width))
        self.second = convolved(dims, (width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps of the same shape."""
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


class Decoder(nn.Module):
    """From the lowest level up: enlarge, join with the skip, convolve; at last masks.

    Args:
        dims: axes of the images.
        widths: channels of the levels, the highest resolution first.
        num_structures: K.
        refine: makes of a level's channels what the level goes through first.
    """

    def __init__(
        self,
        dims: int,
        widths: Sequence[int],
        num_structures: int,
        *,
        refine: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.skips = nn.ModuleList(refine(width) for width in widths)
        self.joins = nn.ModuleList(
            convolved(dims, (above + below, above)) for above, below in pairwise(widths)
        )
        self.out = Convolution(dims, widths[0], num_structures, kernel_size=1, conv_only=True)
        if num_structures > 1:
            first = math.log(FIRST_SHARE / (1 - FIRST_SHARE))
            nn.init.constant_(self.out.get_parameter("conv.bias"), first)

    def forward(self, levels: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return mask logits (B, K, *size).

        Args:
            levels: feature maps of the encoder, the highest resolution first.
            size: of the image.
        """
        skips = [skip(level) for skip, level in zip(self.skips, levels, strict=True)]
        x = skips[-1]
        for join, skip in zip(reversed(self.joins), reversed(skips[:-1]), strict=True):
            x = torch.relu(join(torch.cat([skip, _enlarged(x, skip.shape[2:])], dim=1)))
        # Of 1 x 1: interpolated after it, the numbers are the same, and the channels few.
        return _enlarged(self.out(x), size)


def _enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return feature maps (B, C, *size), interpolated linearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = INTERPOLATION[len(size)]
    return functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)
