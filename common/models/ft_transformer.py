"""FT-Transformer: one token per field of the table, then a pre-norm transformer.

Source: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data",
arXiv:2106.11959, section 3.3 and appendix E (no normalisation before the first attention, ReGLU).
Ours: a token is a linear map of *all* columns of its field (value and missing flag, or the one-hot
categories with "missing"), which is their feature tokenizer with a token for "missing"; one
dropout rate serves attention and feed-forward; and the default is small, for hospital tables.

Shapes: B patients, F columns, T fields (T + 1 tokens), w columns of the widest field, d token
width, h heads, e = d / h.
"""

from math import sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.errors import ConfigError
from fedward.common.models.layout import FieldLayout
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.task import Batch

Factor = Annotated[float, Field(gt=0)]


class FTTransformer(nn.Module):
    """Field tokens and a class token, `num_layers` blocks, and a head on the class token.

    Args:
        d_token: width of a token; a multiple of `num_heads`.
        num_layers: transformer blocks.
        num_heads: attention heads.
        dropout: on attention weights and in the feed-forward part.
        ff_factor: hidden width of the feed-forward part over `d_token`.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        layout: FieldLayout,
        num_classes: int,
        *,
        d_token: PositiveInt = 32,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: Probability = 0.0,
        ff_factor: Factor = 4 / 3,
    ) -> None:
        super().__init__()
        if d_token % num_heads:
            raise ConfigError(
                f"model.d_token: {d_token} is not a multiple of model.num_heads = {num_heads}"
            )
        self.tokenizer = FieldTokenizer(layout, d_token)
        width = max(1, int(d_token * ff_factor))
        self.blocks = nn.Sequential(
            *(
                Block(d_token, num_heads, width, dropout=dropout, first=number == 0)
                for number in range(num_layers)
            )
        )
        self.norm = nn.LayerNorm(d_token)
        self.head = nn.Linear(d_token, num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C)."""
        tokens_BTd = self.blocks(self.tokenizer(batch["features"]))
        logits_BC: Tensor = self.head(functional.relu(self.norm(tokens_BTd[:, 0])))
        return logits_BC


class FieldTokenizer(nn.Module):
    """Maps the columns of each field to one token, and puts the class token in front."""

    column_Tw: Tensor

    def __init__(self, layout: FieldLayout, d_token: int) -> None:
        super().__init__()
        widths = [stop - start for start, stop in zip(layout.starts, layout.stops, strict=True)]
        widest = max(widths)
        # Narrow fields are padded with a column of zeros, which stands at position F.
        column_Tw = torch.full((len(widths), widest), max(layout.stops))
        for token, (start, width) in enumerate(zip(layout.starts, widths, strict=True)):
            column_Tw[token, :width] = torch.arange(start, start + width)
        self.register_buffer("column_Tw", column_Tw, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(widths), widest, d_token))
        self.bias = nn.Parameter(torch.empty(len(widths), d_token))
        self.class_token = nn.Parameter(torch.empty(d_token))
        bound = 1 / sqrt(d_token)  # as in the paper's code: uniform, by the token's width
        for parameter in (self.weight, self.bias, self.class_token):
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.weight[column_Tw == max(layout.stops)] = 0

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the tokens (B, T + 1, d), the class token first."""
        padded_BF = functional.pad(features_BF, (0, 1))
        columns_BTw = padded_BF[:, self.column_Tw]
        tokens_BTd = torch.einsum("btw,twd->btd", columns_BTw, self.weight) + self.bias
        class_B1d = self.class_token.expand(len(features_BF), 1, -1)
        return torch.cat([class_B1d, tokens_BTd], dim=1)


class Block(nn.Module):
    """Multi-head self-attention and a ReGLU feed-forward part, each pre-normed and residual."""

    def __init__(
        self, d_token: int, num_heads: int, width: int, *, dropout: float, first: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.Identity() if first else nn.LayerNorm(d_token)
        self.qkv = nn.Linear(d_token, 3 * d_token)
        self.out = nn.Linear(d_token, d_token)
        self.norm_ff = nn.LayerNorm(d_token)
        self.ff_in = nn.Linear(d_token, 2 * width)
        self.ff_out = nn.Linear(width, d_token)
        # Absent at rate 0: even then nn.Dropout would draw random numbers.
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x_BTd: Tensor) -> Tensor:
        """Return the tokens after one block."""
        x_BTd = x_BTd + self._attention(self.norm_attention(x_BTd))
        value, gate = self.ff_in(self.norm_ff(x_BTd)).chunk(2, dim=-1)
        residual_BTd: Tensor = self.ff_out(self.dropout(value * functional.relu(gate)))
        return x_BTd + residual_BTd

    def _attention(self, x_BTd: Tensor) -> Tensor:
        # Spelled out: scaled_dot_product_attention has no vmap rule on the CPU, so stacked
        # sites would be computed one by one, with a warning.
        d_head = x_BTd.shape[-1] // self.num_heads
        qkv_BT3he = self.qkv(x_BTd).unflatten(-1, (3, self.num_heads, d_head))
        q_BhTe, k_BhTe, v_BhTe = qkv_BT3he.permute(2, 0, 3, 1, 4)
        scores_BhTT = (q_BhTe / sqrt(d_head)) @ k_BhTe.transpose(-2, -1)
        weights_BhTT = self.dropout(_softmax(scores_BhTT))
        mixed_BTd: Tensor = self.out((weights_BhTT @ v_BhTe).transpose(1, 2).flatten(2))
        return mixed_BTd


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis.

    Written out, because torch's own takes five times as long over rows as short as ours.
    """
    powers = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)
