"""The attention of USCNet: a transformer block, and the fusion of CT with clinical fields.

CEA (CT-EHR attention) lets each patch of the image ask the clinical tokens; SMA (segmentation
multimodal attention) lets states of the encoder, which the segmentation is made of, ask the result.

Source: Wang et al. 2026, "USCNet", arXiv:2604.07141, section 2.3, equations 2 and 3. Ours: see
`TokenFusion`. The attention itself is MONAI's, which spells the softmax out, so that gradients
per patient (`torch.func.vmap`) work on the CPU.

Shapes: B samples, F columns, N patches, M clinical tokens, S keys of SMA, d width, v width of the
fused vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from monai.networks.blocks.crossattention import CrossAttentionBlock
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.blocks.selfattention import SABlock
from torch import Tensor, nn

from fedward.common.models.ft_transformer import FieldTokenizer
from fedward.common.models.layout import FieldLayout, num_columns


class EncoderBlock(nn.Module):
    """Multi-head self-attention and a GELU feed-forward part, each pre-normed and residual.

    MONAI's own block holds a layer norm that is never called. DP-SGD wants a gradient of every
    parameter, and an optimiser with weight decay would move it.
    """

    def __init__(self, hidden: int, heads: int, mlp_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden)
        self.attention = SABlock(hidden, heads, dropout)
        self.norm_mlp = nn.LayerNorm(hidden)
        self.mlp = MLPBlock(hidden, mlp_dim, dropout)

    def forward(self, x_BNd: Tensor) -> Tensor:
        """Return the tokens after one block, (B, N, d)."""
        x_BNd = x_BNd + self.attention(self.norm_attention(x_BNd))
        out_BNd: Tensor = x_BNd + self.mlp(self.norm_mlp(x_BNd))
        return out_BNd


@dataclass(frozen=True)
class FusionForm:
    """What a fusion is built from."""

    hidden: int
    """d"""
    heads: int
    num_states: int
    """Encoder states that SMA asks with."""
    dropout: float
    cea: bool
    """False: clinical tokens are put beside the patches, without attention between them."""
    sma: bool
    """False: the states and the rest are put beside each other, without attention between them."""
    layout: FieldLayout | None
    """None: there are no clinical fields, and hence no CEA."""

    def attention(self) -> CrossAttentionBlock:
        """Return multi-head attention of one set of tokens to another."""
        return CrossAttentionBlock(self.hidden, self.heads, self.dropout)


class Clinical(NamedTuple):
    """The encoded clinical fields of a batch; rows without them hold zeros."""

    features_BF: Tensor
    has_table_B: Tensor


class TokenFusion(nn.Module):
    """One token per clinical field, residual CEA and SMA, and the mean over patches at the end.

    Ours, since with one clinical token and no residual the answer does not depend on the CT (see
    `SingleTokenFusion`). An extra token, which is learnt, stands for "no clinical row": where a row
    has none, all its clinical tokens are that one. Without SMA the means of the states and of the
    rest are concatenated; without CEA and SMA, those of the states and of the clinical tokens.
    """

    def __init__(self, form: FusionForm) -> None:
        super().__init__()
        hidden = form.hidden
        self.norm_states = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(form.num_states))
        self.tokenizer = FieldTokenizer(form.layout, hidden) if form.layout else None
        self.norm_patches = self.cea = self.norm_context = self.sma = None
        if form.cea and form.layout:
            self.norm_patches = nn.LayerNorm(hidden)
            self.cea = form.attention()
        if form.sma:
            self.norm_context = nn.LayerNorm(hidden)
            self.sma = form.attention()
        self.width = hidden if form.sma or not form.layout else 2 * hidden

    def forward(
        self, patches_BNd: Tensor, states: Sequence[Tensor], clinical: Clinical | None
    ) -> Tensor:
        """Return (B, v), what the class head sees.

        Args:
            patches_BNd: embedded patches, before the encoder.
            states: (B, N, d) each, of the encoder's layers that SMA asks with.
            clinical: None where the form has no fields.
        """
        normed = [norm(state) for norm, state in zip(self.norm_states, states, strict=True)]
        query_BNd = torch.stack(normed).mean(0)
        tokens_BMd = self._tokens(clinical) if clinical else None
        if self.cea is not None and self.norm_patches is not None:
            asked_BNd = self.cea(self.norm_patches(patches_BNd), tokens_BMd)
            patches_BNd, tokens_BMd = patches_BNd + asked_BNd, None
        if self.sma is not None and self.norm_context is not None:
            context_BSd = patches_BNd
            if tokens_BMd is not None:
                context_BSd = torch.cat([patches_BNd, tokens_BMd], dim=1)
            fused_BNd: Tensor = query_BNd + self.sma(query_BNd, self.norm_context(context_BSd))
            return fused_BNd.mean(1)
        if clinical is None:
            return query_BNd.mean(1)
        rest = patches_BNd if tokens_BMd is None else tokens_BMd
        return torch.cat([query_BNd.mean(1), rest.mean(1)], dim=1)

    def _tokens(self, clinical: Clinical) -> Tensor:
        assert self.tokenizer is not None
        tokens_BMd: Tensor = self.tokenizer(clinical.features_BF)
        # The tokenizer's class token, which comes first, depends on no field.
        return torch.where(clinical.has_table_B[:, None, None], tokens_BMd, tokens_BMd[:, :1])


class SingleTokenFusion(nn.Module):
    """All clinical fields as one token, CEA and SMA without residual, as in the authors' code.

    **The result does not depend on the CT.** CEA has one key, whose softmax is 1: each patch gets
    the same vector, a map of the clinical fields. SMA then chooses between equal vectors. Kept for
    comparison only. Without CEA the clinical token is put beside the patches, and without SMA the
    mean of the states beside the rest, before the mean over all; both do see the CT.

    The authors' code has one single-head attention for CEA and SMA; ours are two with several
    heads, as equations 2 and 3 can be read. That changes nothing about what they see.
    """

    def __init__(self, form: FusionForm) -> None:
        super().__init__()
        self.width = form.hidden
        self.project = self.cea = self.sma = None
        if form.layout:
            self.project = nn.Linear(num_columns(form.layout), form.hidden)
            self.cea = form.attention() if form.cea else None
        if form.sma:
            self.sma = form.attention()

    def forward(
        self, patches_BNd: Tensor, states: Sequence[Tensor], clinical: Clinical | None
    ) -> Tensor:
        """Return (B, v), what the class head sees; arguments as those of `TokenFusion`."""
        query_B1d = torch.stack([state.mean(1) for state in states]).mean(0).unsqueeze(1)
        context_BSd = patches_BNd
        if self.project is not None and clinical is not None:
            token_B1d = self.project(clinical.features_BF).unsqueeze(1)
            token_B1d = torch.where(clinical.has_table_B[:, None, None], token_B1d, 0)
            if self.cea is not None:
                context_BSd = self.cea(patches_BNd, token_B1d)
            else:
                context_BSd = torch.cat([patches_BNd, token_B1d], dim=1)
        if self.sma is not None:
            fused_Bd: Tensor = self.sma(query_B1d, context_BSd).squeeze(1)
            return fused_Bd
        return torch.cat([query_B1d, context_BSd], dim=1).mean(1)
