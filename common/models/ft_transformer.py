"""FT-Transformer: one token per field of the table, then a pre-norm transformer.

Source: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data",
arXiv:2106.11959, section 3.3 and appendix E (no normalisation before the first attention, ReGLU).
Ours: a token is a linear map of *all* columns of its field (value and missing flag, or the one-hot
categories with "missing"), which is their feature tokenizer with a token for "missing"; one
dropout rate serves attention and feed-forward; and the default is small, for hospital tables.

Shapes, all of which may be led by K stacked sites: B patients, F columns, N fields, w columns of
the widest field, T tokens (the class token and one per field), Q tokens that are computed, d token
width, h heads, e = d / h.
"""

from math import sqrt
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.errors import ConfigError
from fedward.common.models.layers import LayerNorm, Linear
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
                Block(d_token, num_heads, width, dropout=dropout, place=Place(number, num_layers))
                for number in range(num_layers)
            )
        )
        self.norm = LayerNorm(d_token)
        self.head = Linear(d_token, num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C)."""
        class_B1d = self.blocks(self.tokenizer(batch["features"]))
        logits_BC: Tensor = self.head(functional.relu(self.norm(class_B1d[..., 0, :])))
        return logits_BC


class Place(NamedTuple):
    """Where a block stands among the others."""

    number: int
    num_layers: int

    @property
    def is_first(self) -> bool:
        """Whether it sees the raw tokens."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether the head reads what it returns."""
        return self.number == self.num_layers - 1


class FieldTokenizer(nn.Module):
    """Maps the columns of each field to one token, and puts the class token in front."""

    column_Nw: Tensor

    def __init__(self, layout: FieldLayout, d_token: int) -> None:
        super().__init__()
        widths = [stop - start for start, stop in zip(layout.starts, layout.stops, strict=True)]
        widest = max(widths)
        # Narrow fields are padded with a column of zeros, which stands at position F.
        column_Nw = torch.full((len(widths), widest), max(layout.stops))
        for token, (start, width) in enumerate(zip(layout.starts, widths, strict=True)):
            column_Nw[token, :width] = torch.arange(start, start + width)
        self.register_buffer("column_Nw", column_Nw, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(widths), widest, d_token))
        self.bias = nn.Parameter(torch.empty(len(widths), d_token))
        self.class_token = nn.Parameter(torch.empty(d_token))
        bound = 1 / sqrt(d_token)  # as in the paper's code: uniform, by the token's width
        for parameter in (self.weight, self.bias, self.class_token):
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.weight[column_Nw == max(layout.stops)] = 0

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return the tokens (B, T, d), the class token first."""
        padded_BF = functional.pad(features_BF, (0, 1))
        columns_BNw = padded_BF[..., self.column_Nw]
        tokens_BNd = torch.einsum("...bnw,...nwd->...bnd", columns_BNw, self.weight)
        class_11d = self.class_token[..., None, None, :]
        class_B1d = class_11d.expand(*features_BF.shape[:-1], 1, class_11d.shape[-1])
        return torch.cat([class_B1d, tokens_BNd + self.bias.unsqueeze(-3)], dim=-2)


class Block(nn.Module):
    """Multi-head self-attention and a ReGLU feed-forward part, each pre-normed and residual.

    The last block computes the class token only: nothing reads the other tokens after it.
    """

    def __init__(
        self, d_token: int, num_heads: int, width: int, *, dropout: float, place: Place
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_queries = 1 if place.is_last else None
        self.norm_attention = nn.Identity() if place.is_first else LayerNorm(d_token)
        self.query = Linear(d_token, d_token)
        # No biases: softmax does not see a key's, and a value's only adds to that of `out`. The
        # gradient of the former is rounding noise, which Adam would blow up to full steps.
        self.key_value = Linear(d_token, 2 * d_token, bias=False)
        self.out = Linear(d_token, d_token)
        self.norm_ff = LayerNorm(d_token)
        self.ff_in = Linear(d_token, 2 * width)
        self.ff_out = Linear(width, d_token)
        # Absent at rate 0: even then nn.Dropout would draw random numbers.
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x_BTd: Tensor) -> Tensor:
        """Return the tokens after one block: (B, T, d), or (B, 1, d) after the last."""
        attended_BQd = self._attention(self.norm_attention(x_BTd))
        x_BQd = x_BTd[..., : self.num_queries, :] + attended_BQd
        value, gate = self.ff_in(self.norm_ff(x_BQd)).chunk(2, dim=-1)
        residual_BQd: Tensor = self.ff_out(self.dropout(value * functional.relu(gate)))
        return x_BQd + residual_BQd

    def _attention(self, x_BTd: Tensor) -> Tensor:
        # Spelled out: scaled_dot_product_attention has no vmap rule on the CPU, which gradients
        # per patient need.
        d_head = x_BTd.shape[-1] // self.num_heads
        query_BQd = self.query(x_BTd[..., : self.num_queries, :]) / sqrt(d_head)
        q_BhQe = query_BQd.unflatten(-1, (self.num_heads, d_head)).transpose(-3, -2)
        kv_BT2he = self.key_value(x_BTd).unflatten(-1, (2, self.num_heads, d_head))
        k_BhTe, v_BhTe = (part.transpose(-3, -2) for part in kv_BT2he.unbind(-3))
        weights_BhQT = self.dropout(_softmax(q_BhQe @ k_BhTe.transpose(-2, -1)))
        mixed_BQd: Tensor = self.out((weights_BhQT @ v_BhTe).transpose(-3, -2).flatten(-2))
        return mixed_BQd


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis.

    Written out, because torch's own takes five times as long over rows as short as ours.
    """
    powers = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)
