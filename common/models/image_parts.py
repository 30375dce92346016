"""What the networks of images have in common: missing modalities, heads, and MONAI made per sample.

Legend: B rows, C channels, W features, L classes; `*size` are D, H, W or H, W.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.task import Batch

Normalisation = Literal["instance", "group", "batch"]
MAX_GROUPS = 8


def seen_image(batch: Batch, network: nn.Module) -> Tensor:
    """Return the images (B, 1, *size) in the type of the network's weights; zeros where masked."""
    image = batch["image"].to(next(network.parameters()).dtype)
    return torch.where(_column(batch["mask.image"], image), image, torch.zeros_like(image))


def seen_features(batch: Batch) -> Tensor:
    """Return the encoded fields (B, F); zeros where masked."""
    features_BF = batch["features"]
    mask_B = _column(batch["mask.table"], features_BF)
    return torch.where(mask_B, features_BF, torch.zeros_like(features_BF))


def pooled(x_BC: Tensor) -> Tensor:
    """Return mean and maximum over space: (B, C, *size) to (B, 2C).

    The maximum lets a small lesion speak; and the mean alone would say little of what instance
    normalisation has just set to zero mean.
    """
    space = tuple(range(2, x_BC.dim()))
    return torch.cat([x_BC.mean(space), x_BC.amax(space)], dim=1)


class OrMissing(nn.Module):
    """Puts a learned vector where a modality is missing, which no gradient passes.

    Source: ours.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, x_BW: Tensor, is_there_B: Tensor) -> Tensor:
        """Return `x_BW`, with the vector in rows whose flag is False."""
        return torch.where(_column(is_there_B, x_BW), x_BW, self.missing.to(x_BW.dtype))


class ClassHead(nn.Module):
    """Logits from features of the image: layer normalisation and one linear layer."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.or_missing = OrMissing(width)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x_BW: Tensor, batch: Batch) -> Tensor:
        """Return logits (B, L)."""
        logits_BL: Tensor = self.linear(self.norm(self.or_missing(x_BW, batch["mask.image"])))
        return logits_BL


def class_head_of(form: ImageForm, width: int, *, wanted: bool) -> ClassHead | None:
    """Return the class head of a network that segments, or None where it is not wanted.

    Raises:
        ConfigError: it is wanted, but there is no label.
    """
    if not wanted:
        return None
    if not form.num_classes:
        raise ConfigError("model.class_head: the schema has no label; leave class_head out")
    return ClassHead(width, form.num_classes)


def needs_structures(form: ImageForm, name: str) -> None:
    """Raise a ConfigError where there is nothing to segment."""
    if not form.num_structures:
        raise ConfigError(
            f"model.name: {name} segments, but the schema names no structures (image.structures)"
        )


def needs_classes(form: ImageForm, name: str) -> None:
    """Raise a ConfigError where there is no label."""
    if not form.num_classes:
        raise ConfigError(f"model.name: {name} classifies, but the schema has no label")


def needs_multiples(form: ImageForm, step: tuple[int, ...], name: str) -> None:
    """Raise a ConfigError unless each side of the images is a multiple of its `step`."""
    if any(side % factor for side, factor in zip(form.size, step, strict=True)):
        raise ConfigError(
            f"data.image.size: {list(form.size)} does not suit model {name}; "
            f"expected multiples of {list(step)}"
        )


def needs_room(form: ImageForm, step: tuple[int, ...], norm: Normalisation) -> None:
    """Raise a ConfigError where `instance` would normalise a single voxel: nothing would be left.

    Args:
        form: of the images.
        step: how much smaller each side is at the lowest level.
        norm: of the feature maps.
    """
    is_voxel = all(side <= factor for side, factor in zip(form.size, step, strict=True))
    if norm == "instance" and is_voxel:
        raise ConfigError(
            f"data.image.size: of {list(form.size)} one voxel is left at the network's lowest "
            "level; expected a larger size, or model.norm: group"
        )


def normalisation(kind: Normalisation, channels: int) -> nn.Module:
    """Return the layer that normalises `channels` channels, with scale and shift.

    `batch` couples the patients of a batch: it is refused under differential privacy.
    """
    if kind == "batch":
        return _BatchNorm(channels)
    groups = channels
    if kind == "group":
        groups = next(g for g in range(min(MAX_GROUPS, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def set_normalisation(network: nn.Module, kind: Normalisation) -> None:
    """Replace the normalisations of a network that was built with instance normalisation.

    `instance` becomes `GroupNorm` with a channel per group: the same numbers from the same
    weights, but it takes an empty batch and a single voxel, and FedBN knows it.
    """
    for parent, name, layer in _children(network):
        if isinstance(layer, (nn.InstanceNorm2d, nn.InstanceNorm3d)):
            new = normalisation(kind, layer.num_features)
            if kind == "instance" and not layer.affine:
                new = nn.GroupNorm(layer.num_features, layer.num_features, affine=False)
            setattr(parent, name, new)


def drop_idle_parts(network: nn.Module) -> None:
    """Remove what MONAI builds but does not use.

    Dropout at rate 0 draws random numbers all the same, and a norm before a cross-attention that
    is not there has weights without a gradient, over which Opacus stumbles.
    """
    for parent, name, layer in _children(network):
        is_idle_norm = name == "norm_cross_attn" and not getattr(
            parent, "with_cross_attention", True
        )
        if is_idle_norm or (isinstance(layer, nn.Dropout) and layer.p == 0):
            setattr(parent, name, nn.Identity())


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of images of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected channels, got {input.dim()} dimension")


def _children(network: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
    ]


def _column(flag_B: Tensor, like: Tensor) -> Tensor:
    return flag_B.reshape(flag_B.shape + (1,) * (like.dim() - 1))
