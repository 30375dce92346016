"""DSMT-Net: a nodule up close and its surroundings, masks beside it, and three things about it.

The middle of the region goes through one encoder at full resolution, all of it through another one
made coarser. A decoder draws the mask of the middle; what the first encoder sees under that mask,
and the means of both, are what `label` and each of the schema's `signs` are told from.

| preset | widths | middle | coarser by | parameters, 1 structure, 2 classes, 2 signs |
|---|---|---|---|---|
| `published` | 32, 64, 128, 256 | a quarter | 2 | 13.62 M |
| `medium` | 16, 32, 64, 128 | a half | 2 | 3.45 M |
| `small` | 8, 16, 32 | a half | 2 | 0.23 M |

For `published`, give regions of 192 voxels of 0.5 mm: the middle is then 48 voxels of 0.5 mm, and
the surroundings 96 voxels of 1 mm. Training has two stages, which are two runs: `stage: joint`, and
from its model (`model.init`) `stage: label`, which trains the label alone; mask, signs and the
first half of either encoder stay as they are. Its mask lies in the middle of a region that somebody
has chosen: `fedward predict` tells the class of such a region, and does not search a scan.

Source: "DSMT-Net: A Dual-Scale Multi-Task Learning Framework for Invasiveness Prediction of
Medium-Sized Pulmonary Nodules" (AAPM), of which there is an abstract only: two scales, a mask,
three classifications, two stages. All that is not in that sentence is ours.

Legend: B rows, C classes, K structures, S signs, F features; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

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
from fedward.common.task import Batch

HEAD_WIDTH = 64
NOTHING = -30.0
"""The logit of a structure outside the middle: a probability that adds nothing to a Dice."""
LEAST_SHARE = 1e-3
OFFERED = ("mask", "label", "signs")
Preset = Literal["published", "medium", "small"]
Tasks = Annotated[Sequence[Literal["mask", "label", "signs"]], Field(min_length=1)]
Widths = Annotated[Sequence[PositiveInt], Field(min_length=2, max_length=6)]


@dataclass(frozen=True)
class _Size:
    widths: Sequence[int]
    middle: int
    coarser: int


PRESETS = {
    "published": _Size((32, 64, 128, 256), middle=4, coarser=2),
    "medium": _Size((16, 32, 64, 128), middle=2, coarser=2),
    "small": _Size((8, 16, 32), middle=2, coarser=2),
}


class DSMTNet(nn.Module):
    """Answers `mask`, `label` and `signs`, as far as they are asked for.

    Args:
        preset: see the table in the module.
        widths: channels of the levels of either encoder.
        middle: the middle is this part of the region along each axis: of 4, a quarter.
        coarser: voxels along each axis that are averaged to one of the surroundings.
        scales: `middle`: without the surroundings (an ablation).
        tasks: of `mask`, `label` and `signs` (ablations), but no mask alone; absent: what the
            schema names. Without `mask` nothing is pooled under it either.
        stage: `joint`, or `label`: only the label is trained, see the module.
        norm: `batch` couples the patients of a batch.

    Raises:
        ConfigError: the schema does not name what `tasks` asks for, or a key does not fit.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        preset: Preset = "published",
        widths: Widths | None = None,
        middle: PositiveInt | None = None,
        coarser: PositiveInt | None = None,
        scales: Literal["both", "middle"] = "both",
        tasks: Tasks | None = None,
        stage: Literal["joint", "label"] = "joint",
        norm: Normalisation = "group",
    ) -> None:
        super().__init__()
        wanted = tasks_of(form, tasks, offered=OFFERED, name="dsmt-net")
        if wanted == {"mask"}:
            raise ConfigError(
                "model.tasks: for a mask alone dsmt-net has no use of two scales; use basic-unet"
            )
        base = PRESETS[preset]
        widths = widths or base.widths
        dims = form.spatial_dims
        self.coarser = coarser or base.coarser
        self.size = form.size
        self.middle = _middle(form, middle or base.middle)
        if min(form.size) < self.coarser:
            raise ConfigError(
                f"model.coarser: of {list(form.size)} voxels nothing is left by {self.coarser}"
            )
        lowest = 2 ** (len(widths) - 1)
        needs_room(ImageForm(self.middle, 0, 0), (lowest,) * dims, norm)
        self.local = _Encoder(dims, widths)
        self.surroundings = self.decoder = self.gate = None
        num_parts = 1
        if "mask" in wanted:
            self.decoder = Decoder(dims, widths, form.num_structures)
            num_parts += 1
        if scales == "both":
            self.surroundings = _Encoder(dims, widths)
            self.gate = nn.Linear(2 * widths[-1], 2)
            num_parts += 1
        num_features = num_parts * widths[-1]
        self.or_missing = OrMissing(num_features)
        self.heads = nn.ModuleDict()
        if "label" in wanted:
            self.heads["label"] = two_layers(num_features, HEAD_WIDTH, form.num_classes)
        for sign in form.signs if "signs" in wanted else ():
            self.heads[_SIGN + sign] = two_layers(num_features, HEAD_WIDTH, 1)
        set_normalisation(self, norm)
        self.stage = stage
        if stage == "label":
            self._freeze()

    @property
    def draws_part(self) -> bool:
        """Whether a mask is of a part of what the network sees: it cannot search a scan."""
        return self.middle != self.size

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return logits: `mask` (B, K, *size), `label` (B, C), `signs` (B, S), if they are built.

        In stage `label`, while training: `label` alone.
        """
        image = seen_image(batch, self)
        starts = [(a - b) // 2 for a, b in zip(self.size, self.middle, strict=True)]
        near = image
        for axis, (start, side) in enumerate(zip(starts, self.middle, strict=True), start=2):
            near = near.narrow(axis, start, side)
        levels = self.local(near)
        mask = None if self.decoder is None else self.decoder(levels, self.middle)
        features_BF = self._features(image, levels[-1], mask)
        features_BF = self.or_missing(features_BF, batch["mask.image"])
        told = {name: head(features_BF) for name, head in self.heads.items()}
        if self.stage == "label" and self.training:
            return {"label": told["label"]}
        outputs = {name: logits for name, logits in told.items() if name == "label"}
        if len(told) > len(outputs):
            signs = [logit_B1 for name, logit_B1 in told.items() if name.startswith(_SIGN)]
            outputs["signs"] = torch.cat(signs, dim=1)
        if mask is not None:
            outputs["mask"] = _placed(mask, self.size, starts)
        return outputs

    def _features(self, image: Tensor, lowest: Tensor, mask: Tensor | None) -> Tensor:
        """Return (B, F): the means of the scales, weighed against each other, and under the mask.

        Args:
            image: (B, 1, *size).
            lowest: the last feature maps of the middle.
            mask: (B, K, *middle) logits; no gradient passes to it: it is drawn for its own loss.
        """
        scales_BF = mean_of_space(lowest)
        if self.surroundings is not None and self.gate is not None:
            pool = functional.avg_pool2d if image.dim() == 4 else functional.avg_pool3d
            far_BF = mean_of_space(self.surroundings(pool(image, self.coarser))[-1])
            weight_B2 = torch.sigmoid(self.gate(torch.cat([scales_BF, far_BF], dim=1)))
            scales_BF = torch.cat([scales_BF * weight_B2[:, :1], far_BF * weight_B2[:, 1:]], dim=1)
        if mask is None:
            return scales_BF
        share = torch.sigmoid(mask.detach()).amax(1, keepdim=True)
        share = functional.interpolate(share, size=lowest.shape[2:], mode="area")
        under_BF = mean_of_space(lowest * share) / (mean_of_space(share) + LEAST_SHARE)
        return torch.cat([scales_BF, under_BF], dim=1)

    def _freeze(self) -> None:
        if "label" not in self.heads:
            raise ConfigError("model.stage: label trains the label, which model.tasks leaves out")
        frozen = [head for name, head in self.heads.items() if name != "label"]
        frozen += [part for part in (self.decoder,) if part is not None]
        for encoder in (self.local, self.surroundings):
            if encoder is not None:
                half = len(encoder.levels) // 2
                frozen += [*encoder.downs[:half], *encoder.levels[:half]]
        for part in frozen:
            part.requires_grad_(requires_grad=False)


_SIGN = "sign-"
"""Before the name of a sign, in the names of its head's weights."""


class _Encoder(nn.Module):
    """Residual blocks at several levels, each at half the resolution of the one before."""

    def __init__(self, dims: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.downs = nn.ModuleList(
            convolved(dims, channels, stride=2 if number else 1)
            for number, channels in enumerate(pairwise([1, *widths]))
        )
        self.levels = nn.ModuleList(BasicBlock(dims, width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of each level, the highest resolution first."""
        found = []
        for down, level in zip(self.downs, self.levels, strict=True):
            x = level(torch.relu(down(x)))
            found.append(x)
        return found


def _middle(form: ImageForm, part: int) -> tuple[int, ...]:
    middle = tuple(side // part for side in form.size)
    if not all(middle):
        raise ConfigError(f"model.middle: of {list(form.size)} voxels 1/{part} is nothing")
    return middle


def _placed(mask: Tensor, size: Sequence[int], starts: Sequence[int]) -> Tensor:
    """Return mask logits (B, K, *size) of those of the middle: `NOTHING` round it."""
    margins: list[int] = []
    for start, whole, side in zip(starts, size, mask.shape[2:], strict=True):
        margins = [start, whole - start - side, *margins]  # the last axis comes first
    return functional.pad(mask, margins, value=NOTHING)
