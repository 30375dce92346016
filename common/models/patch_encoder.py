"""A transformer over patches of an image, and UNETR's decoder from its layers to a mask.

Built of MONAI's blocks, so that other tokens can stand beside the patches.

Legend: B rows, P patches, T tokens, d token width, K structures; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.patchembedding import PatchEmbeddingBlock
from monai.networks.blocks.transformerblock import TransformerBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_parts import (
    drop_idle_parts,
    needs_multiples,
    set_normalisation,
)

NORM = "instance"


@dataclass(frozen=True)
class EncoderSize:
    """The keys of a patch encoder."""

    hidden: int
    """Width of a token; a multiple of `heads`."""
    layers: int
    heads: int
    mlp_dim: int
    """Width of the feed-forward part."""
    patch: int
    """Voxels of a patch along each side, a power of two."""
    dropout: float = 0.0

    def check(self, form: ImageForm, name: str) -> None:
        """Raise a ConfigError unless a network of this size can be built for `form`."""
        if self.hidden % self.heads:
            raise ConfigError(
                f"model.hidden: {self.hidden} is not a multiple of model.heads = {self.heads}"
            )
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise ConfigError(f"model.patch: {self.patch}, expected a power of two, such as 8")
        if self.layers < self.num_taps:
            raise ConfigError(
                f"model.layers: {self.layers}; patches of {self.patch} need {self.num_taps}"
            )
        needs_multiples(form, (self.patch,) * form.spatial_dims, f"{name} (model.patch)")

    @property
    def num_taps(self) -> int:
        """How many layers the decoder reads: one per doubling from a patch to a voxel."""
        return self.patch.bit_length() - 1

    @property
    def taps(self) -> tuple[int, ...]:
        """Which layers the decoder reads, counted from 1: Z3, Z6, Z9 and Z12 of twelve."""
        return tuple(
            round(self.layers * number / self.num_taps) for number in range(1, self.num_taps + 1)
        )


class Patches(nn.Module):
    """One token per patch, with learned positions."""

    def __init__(self, form: ImageForm, size: EncoderSize) -> None:
        super().__init__()
        self.embed = PatchEmbeddingBlock(
            in_channels=1,
            img_size=form.size,
            patch_size=size.patch,
            hidden_size=size.hidden,
            num_heads=size.heads,
            dropout_rate=size.dropout,
            spatial_dims=form.spatial_dims,
        )
        self.num_patches = prod(side // size.patch for side in form.size)
        drop_idle_parts(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens (B, P, d) of images (B, 1, *size)."""
        tokens_BPd: Tensor = self.embed(image)
        return tokens_BPd


class Encoder(nn.Module):
    """Pre-norm transformer blocks; answers with the tokens after those layers that are read."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.taps = size.taps
        self.blocks = nn.ModuleList(
            TransformerBlock(size.hidden, size.mlp_dim, size.heads, size.dropout)
            for _ in range(size.layers)
        )
        self.norm = nn.LayerNorm(size.hidden)
        drop_idle_parts(self)

    def forward(self, tokens_BTd: Tensor, is_seen_BT: Tensor | None = None) -> list[Tensor]:
        """Return the tokens after each tapped layer; those of the last are normalised.

        Args:
            tokens_BTd: patches and any others.
            is_seen_BT: False where no token may look at this one; at least one True per row.
        """
        tapped = []
        for number, block in enumerate(self.blocks, start=1):
            tokens_BTd = block(tokens_BTd, attn_mask=is_seen_BT)
            if number in self.taps[:-1]:
                tapped.append(tokens_BTd)
        return [*tapped, self.norm(tokens_BTd)]


class Decoder(nn.Module):
    """UNETR's decoder: each tapped layer is brought to its resolution and joined on the way up.

    Source: Hatamizadeh et al. 2022, "UNETR", arXiv:2103.10504, figure 2. Ours: patches of any
    power of two, with as many skips as there are doublings.
    """

    def __init__(self, form: ImageForm, size: EncoderSize, feature_size: int) -> None:
        super().__init__()
        dims, doublings = form.spatial_dims, size.num_taps
        widths = [feature_size * 2**level for level in range(doublings)]
        below = [*widths[1:], size.hidden]
        self.grid = tuple(side // size.patch for side in form.size)
        self.of_image = UnetrBasicBlock(
            dims, 1, feature_size, kernel_size=3, stride=1, norm_name=NORM, res_block=True
        )
        self.skips = nn.ModuleList(
            UnetrPrUpBlock(
                dims, size.hidden, widths[level], num_layer=doublings - 1 - level, kernel_size=3,
                stride=1, upsample_kernel_size=2, norm_name=NORM, conv_block=True, res_block=True,
            )
            for level in range(1, doublings)
        )  # fmt: skip
        self.ups = nn.ModuleList(
            UnetrUpBlock(
                dims, below[level], widths[level], kernel_size=3, upsample_kernel_size=2,
                norm_name=NORM, res_block=True,
            )
            for level in range(doublings)
        )  # fmt: skip
        self.out = UnetOutBlock(dims, feature_size, form.num_structures)
        set_normalisation(self, "instance")

    def forward(self, image: Tensor, tapped: Sequence[Tensor]) -> Tensor:
        """Return mask logits (B, K, *size).

        Args:
            image: (B, 1, *size).
            tapped: (B, P, d) after each tapped layer, the last one last.
        """
        states = [self._as_image(tokens_BPd) for tokens_BPd in tapped]
        levels = [self.of_image(image)]
        levels += [skip(state) for skip, state in zip(self.skips, states, strict=False)]
        x = states[-1]
        for up, level in zip(reversed(self.ups), reversed(levels), strict=True):
            x = up(x, level)
        logits: Tensor = self.out(x)
        return logits

    def _as_image(self, tokens_BPd: Tensor) -> Tensor:
        state: Tensor = tokens_BPd.transpose(1, 2).unflatten(2, self.grid)
        return state


def mean_of(tokens_BPd: Tensor) -> Tensor:
    """Return the mean token (B, d)."""
    return torch.mean(tokens_BPd, dim=1)
