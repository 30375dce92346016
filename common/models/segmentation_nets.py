"""Networks that segment, and classify from their bottleneck where `class_head` asks for it.

Built of MONAI's blocks. Without BatchNorm unless asked for, and without dropout at rate 0.
Max-pooling in 3D (`basic-unet`) has no deterministic gradient on CUDA; the others go without.

Legend: B rows, K structures, C classes, d token width; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from monai.networks.nets import basic_unet, dynunet, segresnet
from pydantic import Field
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.images.topology import Topology
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    class_head_of,
    drop_idle_parts,
    needs_multiples,
    needs_room,
    needs_structures,
    pooled,
    seen_image,
    set_normalisation,
)
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.models.patch_encoder import Decoder, Encoder, EncoderSize, Patches, mean_of
from fedward.common.task import Batch

Upsampling = Literal["deconv", "nontrainable"]
Sixfold = Annotated[Sequence[PositiveInt], Field(min_length=6, max_length=6)]
Counts = Annotated[Sequence[PositiveInt], Field(min_length=2)]
PerLevel = Annotated[Sequence[Sequence[PositiveInt]], Field(min_length=3)]
NotNegative = Annotated[int, Field(ge=0)]


class UNETR(nn.Module):
    """A transformer over patches whose layers feed a convolutional decoder.

    Args:
        hidden: width of a token.
        layers: transformer blocks.
        heads: attention heads.
        mlp_dim: width of the feed-forward part.
        patch: voxels of a patch along each side, a power of two.
        feature_size: channels at full resolution.
        dropout: in the transformer.
        class_head: whether the mean token is classified too.

    Source: Hatamizadeh et al. 2022, "UNETR", arXiv:2103.10504; its defaults.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        hidden: PositiveInt = 768,
        layers: PositiveInt = 12,
        heads: PositiveInt = 12,
        mlp_dim: PositiveInt = 3072,
        patch: PositiveInt = 16,
        feature_size: PositiveInt = 16,
        dropout: Probability = 0.0,
        class_head: bool = False,
    ) -> None:
        super().__init__()
        needs_structures(form, "unetr")
        size = EncoderSize(hidden, layers, heads, mlp_dim, patch, dropout)
        size.check(form, "unetr")
        self.patches = Patches(form, size)
        self.encoder = Encoder(size)
        self.decoder = Decoder(form, size, feature_size)
        self.head = class_head_of(form, hidden, wanted=class_head)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `mask` (B, K, *size) and, with a class head, `label` (B, C)."""
        image = seen_image(batch, self)
        tapped = self.encoder(self.patches(image))
        outputs = {"mask": self.decoder(image, tapped)}
        if self.head is not None:
            outputs["label"] = self.head(mean_of(tapped[-1]), batch)
        return outputs


class BasicUNet(basic_unet.BasicUNet):
    """The U-Net of two convolutions per level and four halvings; weights are named as in MONAI.

    Args:
        features: channels of the five levels, and of the last one after going up.
        norm: `instance` and `group` normalise each row alone; `batch` couples those of a batch.
        upsample: transposed convolutions, or interpolation.
        dropout: after each convolution.
        class_head: whether the lowest level is pooled and classified too.

    Source: Falk et al. 2019, Nature Methods 16:67, as in MONAI. The U-Net of 31.1 million
    parameters in 2D has features [64, 128, 256, 512, 1024, 64].
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        features: Sixfold = (32, 32, 64, 128, 256, 32),
        norm: Normalisation = "instance",
        upsample: Upsampling = "deconv",
        dropout: Probability = 0.0,
        class_head: bool = False,
    ) -> None:
        needs_structures(form, "basic-unet")
        step = (16,) * form.spatial_dims
        needs_multiples(form, step, "basic-unet")
        needs_room(form, step, norm)
        super().__init__(
            form.spatial_dims,
            1,
            form.num_structures,
            features=tuple(features),
            dropout=dropout,
            upsample=upsample,
        )
        self.head = class_head_of(form, 2 * features[4], wanted=class_head)
        set_normalisation(self, norm)
        drop_idle_parts(self)

    def forward(self, batch: Batch) -> ImageOutputs:  # type: ignore[override] # a batch, not one
        """Return `mask` (B, K, *size) and, with a class head, `label` (B, C)."""
        x = seen_image(batch, self)
        skips = []
        for down in (self.conv_0, self.down_1, self.down_2, self.down_3, self.down_4):
            x = down(x)
            skips.append(x)
        outputs = {}
        if self.head is not None:
            outputs["label"] = self.head(pooled(x), batch)
        ups = (self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1)
        for up, skip in zip(ups, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return {"mask": self.final_conv(x), **outputs}


class SegResNet(segresnet.SegResNet):
    """A residual encoder, wider than its decoder, whose weights are named as in MONAI.

    Args:
        filters: channels at full resolution.
        blocks_down: residual blocks of each level on the way down.
        norm: of the feature maps before each convolution, as in `basic-unet`.
        upsample: transposed convolutions; or interpolation, as published.
        dropout: after the first convolution.
        class_head: whether the lowest level is pooled and classified too.

    Source: Myronenko 2018, arXiv:1810.11654, without its autoencoder; as in MONAI.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        filters: PositiveInt = 16,
        blocks_down: Counts = (1, 2, 2, 4),
        norm: Normalisation = "group",
        upsample: Upsampling = "deconv",
        dropout: Probability = 0.0,
        class_head: bool = False,
    ) -> None:
        needs_structures(form, "seg-resnet")
        halvings = len(blocks_down) - 1
        step = (2**halvings,) * form.spatial_dims
        needs_multiples(form, step, "seg-resnet")
        needs_room(form, step, norm)
        super().__init__(
            form.spatial_dims,
            init_filters=filters,
            out_channels=form.num_structures,
            dropout_prob=dropout or None,
            norm=("instance", {"affine": True}),
            blocks_down=tuple(blocks_down),
            blocks_up=(1,) * halvings,
            upsample_mode=upsample,
        )
        self.head = class_head_of(form, 2 * filters * 2**halvings, wanted=class_head)
        set_normalisation(self, norm)

    def forward(self, batch: Batch) -> ImageOutputs:  # type: ignore[override] # a batch, not one
        """Return `mask` (B, K, *size) and, with a class head, `label` (B, C)."""
        lowest, levels = self.encode(seen_image(batch, self))
        outputs = {"mask": self.decode(lowest, levels[::-1])}
        if self.head is not None:
            outputs["label"] = self.head(pooled(lowest), batch)
        return outputs


class NNUNet(nn.Module):
    """nnU-Net's network: kernels and strides per level as a plan says, and deep supervision.

    Args:
        kernels: of each level; absent: as nnU-Net's rules say for images of this size with
            voxels as long as wide. `fedward.common.images.plan` writes those of a federation.
        strides: on the way into each level; the first is 1.
        filters: channels at full resolution; each level has twice as many, up to `max_filters`.
        max_filters: 0: nnU-Net's 320 in 3D and 512 in 2D.
        deep_supervision: coarser masks, `mask.1` and on, that are trained too.
        residual: whether the blocks are residual.
        class_head: whether the lowest level is pooled and classified too.

    Source: Isensee et al. 2021, Nature Methods 18:203; the parts are those of MONAI's DynUNet.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        kernels: PerLevel | None = None,
        strides: PerLevel | None = None,
        filters: PositiveInt = 32,
        max_filters: NotNegative = 0,
        deep_supervision: NotNegative = 2,
        residual: bool = False,
        class_head: bool = False,
    ) -> None:
        super().__init__()
        needs_structures(form, "nnunet")
        shape = _topology(form, kernels, strides)
        most = max_filters or (320 if form.spatial_dims == 3 else 512)
        widths = [min(filters * 2**level, most) for level in range(len(shape.kernels))]
        num_coarse = min(deep_supervision, len(shape.kernels) - 2)
        net = dynunet.DynUNet(
            form.spatial_dims,
            1,
            form.num_structures,
            kernel_size=shape.kernels,
            strides=shape.strides,
            upsample_kernel_size=shape.strides[1:],
            filters=widths,
            deep_supervision=num_coarse > 0,
            deep_supr_num=max(num_coarse, 1),
            res_block=residual,
        )
        # Its parts only: its own forward keeps tensors of the last batch, and it names each
        # weight twice.
        self.downs = nn.ModuleList([net.input_block, *net.downsamples, net.bottleneck])
        self.ups = net.upsamples
        self.out = net.output_block
        self.coarse = net.deep_supervision_heads if num_coarse else nn.ModuleList()
        self.head = class_head_of(form, 2 * widths[-1], wanted=class_head)
        set_normalisation(self, "instance")

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `mask` (B, K, *size); training `mask.1` ...; with a class head `label` (B, C)."""
        x = seen_image(batch, self)
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        outputs = {}
        if self.head is not None:
            outputs["label"] = self.head(pooled(x), batch)
        levels = []
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
            levels.append(x)
        if self.training:
            finest_first = levels[-2::-1]
            for number, (head, level) in enumerate(zip(self.coarse, finest_first, strict=False), 1):
                outputs[f"mask.{number}"] = head(level)
        return {"mask": self.out(x), **outputs}


def _topology(form: ImageForm, kernels: PerLevel | None, strides: PerLevel | None) -> Topology:
    if (kernels is None) != (strides is None):
        raise ConfigError("model.kernels: give `kernels` and `strides`, or neither")
    if kernels is None or strides is None:
        shape = Topology.of(form.size, (1.0,) * form.spatial_dims)
    else:
        shape = Topology(tuple(map(tuple, kernels)), tuple(map(tuple, strides)))
        shape.check(form.spatial_dims)
    needs_multiples(form, shape.divisors, "nnunet (model.strides)")
    needs_room(form, shape.divisors, "instance")
    return shape
