"""USCNet: masks of structures in CT, and a class from CT and clinical fields together.

Patches of the image go through a transformer encoder; a UNETR decoder makes the masks of its
states; CEA and SMA (`fedward.common.models.attention`) fuse the patches, the clinical fields and
the states for the class.

Source: Wang et al. 2026, "USCNet: Transformer-Based Multimodal Fusion with Segmentation Guidance
for Urolithiasis Classification", arXiv:2604.07141. The class of the network as published does not
depend on the CT; `tokens` is our repair, and `fedward.common.models.attention` says what differs.

| preset | for | fusion | hidden x layers | mlp_dim | patch | parameters, by 15 columns |
|---|---|---|---|---|---|---|
| `tokens` | 48^3 | tokens | 384 x 12 | 1536 | 16 | 27.6 M |
| `published` | 48^3 | published | 384 x 12 | 3072 | 16 | 41.7 M |
| `smoke` | 32^3 | tokens | 96 x 4 | 192 | 8 | 0.5 M |

Shapes: B samples, F columns, N patches, d token width, v width of the fused vector, K structures,
C classes; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.attention import Clinical, FusionForm, SingleTokenFusion, TokenFusion
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import drop_idle_parts, seen_features, seen_image
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.models.patch_encoder import Decoder, EncoderSize
from fedward.common.models.uscnet_parts import DeepHead, MaskGuide, StateEncoder
from fedward.common.task import Batch

Fusion = Literal["tokens", "published"]
Preset = Literal["tokens", "published", "smoke"]
Layers = Annotated[Sequence[PositiveInt], Field(min_length=1)]


@dataclass(frozen=True)
class Settings:
    """The keys of a network, all decided; `USCNet` says what they mean."""

    fusion: Fusion
    hidden: int
    layers: int
    heads: int
    mlp_dim: int
    patch: int
    feature_size: int
    head: Sequence[int]
    head_dropout: Sequence[float]
    dropout: float = 0.0
    cea: bool = True
    sma: bool = True
    sma_layers: Sequence[int] | None = None
    guide: bool = True

    @property
    def encoder(self) -> EncoderSize:
        """The keys of the encoder."""
        return EncoderSize(
            self.hidden, self.layers, self.heads, self.mlp_dim, self.patch, self.dropout
        )

    @property
    def skips(self) -> tuple[int, ...]:
        """Layers (from 1) whose states the decoder takes on its way up.

        The authors' code counts 3, 6 and 9 from 0, as MONAI's UNETR does.
        """
        later = 1 if self.fusion == "published" else 0
        return tuple(min(layer + later, self.layers) for layer in self.encoder.taps[:-1])

    @property
    def queries(self) -> Sequence[int]:
        """Layers (from 1) whose states SMA asks with.

        Unless they are given: the last one; as published, the last of the skips.
        """
        if self.sma_layers is not None:
            return self.sma_layers
        return self.skips[-1:] if self.fusion == "published" and self.skips else (self.layers,)

    def check(self, form: ImageForm) -> None:
        """Raise a ConfigError if they do not fit together, or do not suit `form`."""
        self.encoder.check(form, "uscnet")
        if max(self.queries) > self.layers or len(set(self.queries)) < len(self.queries):
            raise ConfigError(
                f"model.sma_layers: {list(self.queries)}; expected different layers, "
                f"each from 1 to model.layers = {self.layers}"
            )
        if len(self.head) != len(self.head_dropout):
            raise ConfigError(
                f"model.head_dropout: {len(self.head_dropout)} rates for {len(self.head)} widths "
                "of model.head; expected one for each"
            )
        if not form.num_structures and not form.num_classes:
            raise ConfigError(
                "model.name: uscnet has nothing to learn; the schema names neither structures "
                "nor a label"
            )


TOKENS = Settings(
    fusion="tokens",
    hidden=384,
    layers=12,
    heads=12,
    mlp_dim=1536,
    patch=16,
    feature_size=16,
    head=(256, 128, 32),
    head_dropout=(0.3, 0.3, 0.2),
)
PRESETS = {
    "tokens": TOKENS,
    "published": replace(TOKENS, fusion="published", mlp_dim=3072),
    "smoke": replace(
        TOKENS,
        hidden=96,
        layers=4,
        heads=4,
        mlp_dim=192,
        patch=8,
        feature_size=4,
        head=(32,),
        head_dropout=(0.1,),
    ),
}


class USCNet(nn.Module):
    """Answers `mask` where there are structures, and `label` where there are classes.

    A key that is left out is the preset's. Rows without an image or without clinical fields are
    answered from what they have. Without structures, or without classes, the branch that would
    serve only them is not built.

    Args:
        preset: see the table in the module.
        fusion: `tokens`, one token per clinical field and residual attention; `published`, one
            token for all of them and no residuals, whose class does not see the CT.
        hidden: width of a token; a multiple of `heads`.
        layers: transformer blocks.
        heads: attention heads.
        mlp_dim: width of the feed-forward part.
        patch: edge of a patch in voxels, a power of two; divides each of `data.image.size`.
        feature_size: channels of the decoder at full resolution; they double per level.
        dropout: in the encoder, CEA and SMA.
        head: hidden widths of the class head.
        head_dropout: one rate per width of `head`.
        cea: False puts the clinical tokens beside the patches instead (the paper's table 2).
        sma: False puts the encoder's states beside the rest instead (table 2).
        sma_layers: counted from 1, the layers whose states SMA asks with (table 3).
        guide: whether the class is told the grey under the mask, where there are structures; ours,
            and left out: True for `tokens`, False for `published`.

    Raises:
        ConfigError: keys that do not fit together, or do not suit the form.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        preset: Preset = "tokens",
        fusion: Fusion | None = None,
        hidden: PositiveInt | None = None,
        layers: PositiveInt | None = None,
        heads: PositiveInt | None = None,
        mlp_dim: PositiveInt | None = None,
        patch: PositiveInt | None = None,
        feature_size: PositiveInt | None = None,
        dropout: Probability | None = None,
        head: Sequence[PositiveInt] | None = None,
        head_dropout: Sequence[Probability] | None = None,
        cea: bool = True,
        sma: bool = True,
        sma_layers: Layers | None = None,
        guide: bool | None = None,
    ) -> None:
        super().__init__()
        base = PRESETS[preset]
        self.settings = Settings(
            fusion=fusion or base.fusion,
            hidden=hidden or base.hidden,
            layers=layers or base.layers,
            heads=heads or base.heads,
            mlp_dim=mlp_dim or base.mlp_dim,
            patch=patch or base.patch,
            feature_size=feature_size or base.feature_size,
            head=base.head if head is None else head,
            head_dropout=base.head_dropout if head_dropout is None else head_dropout,
            dropout=base.dropout if dropout is None else dropout,
            cea=cea,
            sma=sma,
            sma_layers=sma_layers,
            guide=(fusion or base.fusion) == "tokens" if guide is None else guide,
        )
        self.settings.check(form)
        self._has_fields = form.layout is not None
        self._build(form)
        drop_idle_parts(self)

    def _build(self, form: ImageForm) -> None:
        own, size = self.settings, self.settings.encoder
        # Without a decoder nothing reads what comes after the last layer that SMA asks with.
        num_blocks = size.layers if form.num_structures else max(own.queries)
        self.encoder = StateEncoder(form, size, num_blocks=num_blocks)
        self.norm = self.decoder = self.fusion = self.guide = self.head = None
        if form.num_structures:
            self.norm = nn.LayerNorm(size.hidden)
            self.decoder = Decoder(form, size, own.feature_size)
        if form.num_classes:
            self.fusion = _fusion(own, form)
            if own.guide and form.num_structures:
                self.guide = MaskGuide(form.num_structures, self.fusion.width)
            self.head = DeepHead(
                self.fusion.width, own.head, form.num_classes, dropout=own.head_dropout
            )

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `mask` (B, K, *size) and `label` (B, C), logits both, as far as they are built."""
        image = seen_image(batch, self)
        patches_BNd, states = self.encoder(image, batch["mask.image"])
        outputs: ImageOutputs = {}
        if self.decoder is not None and self.norm is not None:
            skips = [states[layer - 1] for layer in self.settings.skips]
            outputs["mask"] = self.decoder(image, [*skips, self.norm(states[-1])])
        if self.fusion is not None and self.head is not None:
            queries = [states[layer - 1] for layer in self.settings.queries]
            fused_Bv = self.fusion(patches_BNd, queries, self._clinical(batch))
            if self.guide is not None:
                fused_Bv = fused_Bv + self.guide(image, outputs["mask"], batch["mask.image"])
            outputs["label"] = self.head(fused_Bv)
        return outputs

    def _clinical(self, batch: Batch) -> Clinical | None:
        if not self._has_fields:
            return None
        return Clinical(seen_features(batch), batch["mask.table"])


def _fusion(own: Settings, form: ImageForm) -> TokenFusion | SingleTokenFusion:
    fusion_form = FusionForm(
        hidden=own.hidden,
        heads=own.heads,
        num_states=len(own.queries),
        dropout=own.dropout,
        cea=own.cea,
        sma=own.sma,
        layout=form.layout,
    )
    return (TokenFusion if own.fusion == "tokens" else SingleTokenFusion)(fusion_form)
