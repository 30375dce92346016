"""Networks that classify from image and fields together: baselines of USCNet's table 1.

Legend: B rows, C classes, K structures, F columns, T tokens, W features, d token width.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.classification_nets import BLOCKS, NORM, Depth, ResNetTrunk
from fedward.common.models.ft_transformer import FieldTokenizer
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    OrMissing,
    needs_classes,
    needs_multiples,
    seen_features,
    seen_image,
    set_normalisation,
)
from fedward.common.models.layout import FieldLayout, num_columns
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.models.patch_encoder import Decoder, Encoder, EncoderSize, Patches
from fedward.common.task import Batch


class ConcatFusion(nn.Module):
    """Features of a residual network and of a perceptron, put side by side.

    A modality that is missing is a learned vector.

    Args:
        depth: of the residual network.
        width: channels of its first stage.
        stem_stride: of its first convolution.
        norm: of its feature maps.
        hidden: width of the perceptron over the fields, and of the one over both.
        dropout: before the last layer.
        mask: whether a decoder makes masks of the stages, where there are structures.
        feature_size: channels of the decoder at full resolution.

    Source: after Baharoon et al. 2023, "HyMNet", arXiv:2310.01099, whose image encoder is larger.
    USCNet's authors report its masks without saying how they are made; the decoder is ours.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        depth: Depth = 18,
        width: PositiveInt = 64,
        stem_stride: Literal[1, 2] = 1,
        norm: Normalisation = "group",
        hidden: PositiveInt = 128,
        dropout: Probability = 0.0,
        mask: bool = True,
        feature_size: PositiveInt = 16,
    ) -> None:
        super().__init__()
        needs_classes(form, "concat-fusion")
        layout = _fields(form, "concat-fusion")
        self.trunk = ResNetTrunk(form, depth, width=width, stem_stride=stem_stride, norm=norm)
        self.of_image = nn.Sequential(nn.Linear(self.trunk.num_features, hidden), nn.GELU())
        self.of_fields = nn.Sequential(
            nn.Linear(num_columns(layout), hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.no_image, self.no_fields = OrMissing(hidden), OrMissing(hidden)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * hidden),
            nn.Linear(2 * hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout) if dropout > 0 else nn.Identity(),
            nn.Linear(hidden, form.num_classes),
        )
        self.stage_ends = frozenset(accumulate(BLOCKS[depth]))
        self.decoder = None
        if mask and form.num_structures:
            step = (16 * stem_stride,) * form.spatial_dims
            needs_multiples(form, step, "concat-fusion (model.mask)")
            widths = [self.trunk.num_features // 2**level for level in (3, 2, 1, 0)]
            # After a stem that keeps the resolution, the image itself is at that level.
            stem = [width] if stem_stride == 2 else []
            self.decoder = StageDecoder(form, [feature_size, *stem, *widths], norm)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C) and, with a decoder, `mask` (B, K, *size)."""
        image = seen_image(batch, self)
        levels = self._levels(image)
        features_BW = levels[-1].mean(tuple(range(2, image.dim())))
        image_BW = self.no_image(self.of_image(features_BW), batch["mask.image"])
        fields_BW = self.no_fields(self.of_fields(seen_features(batch)), batch["mask.table"])
        outputs = {"label": self.head(torch.cat([image_BW, fields_BW], dim=1))}
        if self.decoder is not None:
            outputs["mask"] = self.decoder(image, levels)
        return outputs

    def _levels(self, image: Tensor) -> list[Tensor]:
        """Return the stem's feature maps and those of each stage, the smallest last."""
        stem, pool = self.trunk.stem
        levels = [stem(image)]
        x = pool(levels[0])
        for number, block in enumerate(self.trunk.stages, start=1):
            x = block(x)
            if number in self.stage_ends:
                levels.append(x)
        return levels


class StageDecoder(nn.Module):
    """From the stages of a residual network back to a mask, joined with each on the way up.

    Source: UNETR's decoder (arXiv:2103.10504), with stages in place of a transformer's layers.
    """

    def __init__(self, form: ImageForm, widths: Sequence[int], norm: Normalisation) -> None:
        """Make a decoder for feature maps of these widths, the full resolution first."""
        super().__init__()
        dims = form.spatial_dims
        self.of_image = UnetrBasicBlock(
            dims, 1, widths[0], kernel_size=3, stride=1, norm_name=NORM, res_block=True
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(
                dims, below, width, kernel_size=3, upsample_kernel_size=2, norm_name=NORM,
                res_block=True,
            )
            for width, below in pairwise(widths)
        )  # fmt: skip
        self.out = UnetOutBlock(dims, widths[0], form.num_structures)
        set_normalisation(self, norm)

    def forward(self, image: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Return mask logits (B, K, *size).

        Args:
            image: (B, 1, *size).
            levels: the feature maps of the network, the smallest last; what is above them is not
                read.
        """
        x, *above = reversed(levels[-len(self.ups) :])
        for up, level in zip(reversed(self.ups), [*above, self.of_image(image)], strict=True):
            x = up(x, level)
        logits: Tensor = self.out(x)
        return logits


class TMSS(nn.Module):
    """Patches and fields as tokens of one transformer; a mask decoder, and a head on a class token.

    Tokens of a modality that is missing are not looked at.

    Args:
        hidden: width of a token.
        layers: transformer blocks.
        heads: attention heads.
        mlp_dim: width of the feed-forward part.
        patch: voxels of a patch along each side, a power of two.
        feature_size: channels of the decoder at full resolution.
        dropout: in the transformer.

    Source: after Saeed et al. 2022, "TMSS", arXiv:2209.05036. Ours: a token per field instead of
    one for all, a class token, and classes instead of survival.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        hidden: PositiveInt = 384,
        layers: PositiveInt = 12,
        heads: PositiveInt = 12,
        mlp_dim: PositiveInt = 1536,
        patch: PositiveInt = 16,
        feature_size: PositiveInt = 16,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        needs_classes(form, "tmss")
        layout = _fields(form, "tmss")
        size = EncoderSize(hidden, layers, heads, mlp_dim, patch, dropout)
        size.check(form, "tmss")
        self.tokenizer = FieldTokenizer(layout, hidden)
        self.num_fields = len(layout.names)
        self.patches = Patches(form, size)
        self.encoder = Encoder(size)
        self.decoder = Decoder(form, size, feature_size) if form.num_structures else None
        self.head = nn.Linear(hidden, form.num_classes)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C) and, where there are structures, `mask` (B, K, *size)."""
        image = seen_image(batch, self)
        patches_BPd = self.patches(image)
        fields_BTd = self.tokenizer(seen_features(batch))
        num_patches = patches_BPd.shape[1]
        seen_B1 = batch["mask.image"].unsqueeze(1)
        is_seen_BT = torch.cat(
            [
                seen_B1.expand(-1, num_patches),
                torch.ones_like(seen_B1),  # the class token, so that no row is empty
                batch["mask.table"].unsqueeze(1).expand(-1, self.num_fields),
            ],
            dim=1,
        )
        tapped = self.encoder(torch.cat([patches_BPd, fields_BTd], dim=1), is_seen_BT)
        outputs = {"label": self.head(tapped[-1][:, num_patches])}
        if self.decoder is not None:
            outputs["mask"] = self.decoder(image, [tokens[:, :num_patches] for tokens in tapped])
        return outputs


def _fields(form: ImageForm, name: str) -> FieldLayout:
    if form.layout is None or not form.layout.names:
        raise ConfigError(
            f"model.name: {name} joins images and fields, but the schema has no fields; "
            "use resnet3d, or a network that segments"
        )
    return form.layout
