"""Clipped sums of dense networks from one backward pass, without a gradient per patient in memory.

A linear layer with inputs x and gradients d of its outputs has the gradient sum_t d_t x_t^T over
the tokens (and rows) t of a patient. Its squared norm is sum_tu (x_t . x_u)(d_t . d_u), which needs
no matrix per patient; and the clipped sum is one product of matrices, (c d)^T x. Layers with few
weights, norms and the tokenizer, have their gradients per row written out.

Every layer here also takes K stacked sites (`fedward.common.models.layers`). One site is K = 1.

Source: Li et al. 2022, "Large Language Models Can Be Strong Differentially Private Learners",
arXiv:2110.05679, section 4 (ghost clipping), after Goodfellow 2015, arXiv:1510.01799; as one pass,
Kong and Munoz Medina 2023, arXiv:2311.05778.

Shapes: K sites, B rows of each, R = K * B, G patients, T tokens (1 for plain layers), i inputs,
o outputs, N fields, w columns of a field, d token width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.privacy.clipping import ClippedSum, clip_factors
from fedward.client.privacy.patients import Patients
from fedward.common.models import MLP, FTTransformer, LogisticRegression, ft_transformer, layers
from fedward.common.task import Batch, Loss

_LINEAR = (nn.Linear, layers.Linear)
_DENSE = (
    *_LINEAR, nn.LayerNorm, layers.LayerNorm, nn.GroupNorm, nn.Dropout, nn.Identity, nn.ReLU,
    nn.GELU, nn.Tanh, nn.Sequential,
    LogisticRegression, MLP, FTTransformer, ft_transformer.FieldTokenizer, ft_transformer.Block,
)  # fmt: skip


def is_dense(model: nn.Module) -> bool:
    """Return whether every part of `model` is one whose gradients are known here.

    Only classes whose forward is known are let in: rows first, each layer called once, nothing
    written in place. Any other network goes through `fedward.client.privacy.by_row`.
    """
    parts = list(model.modules())
    tensors = list(model.parameters())
    return (
        all(type(part) in _DENSE for part in parts)
        and not any(getattr(part, "inplace", False) for part in parts)
        and sum(p.numel() for part in parts for p in part.parameters(recurse=False))
        == sum(p.numel() for p in tensors)  # no weight is shared by two layers
    )


class DenseGradients:
    """Clips the gradients of one site's patients.

    Args:
        model: accepted by `is_dense`.
        loss_per_sample: outputs and batch to (B,) losses.
    """

    def __init__(self, model: nn.Module, loss_per_sample: Loss) -> None:
        self._model = model
        self._loss_per_sample = loss_per_sample
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]

    def clipped_sum(self, batch: Batch, patients: Patients, max_norm: float) -> ClippedSum:
        """Return the sum over the patients of the batch, of which there is at least one."""
        with recorded(self._model) as calls:
            loss_R = self._loss_per_sample(self._model(batch), batch)
        if not patients.is_one_each:
            loss_R = loss_R * patients.share_R.to(loss_R.dtype)
        found = clipped_sums(calls, loss_R, patients, max_norm=max_norm)
        sums = [found.sums[name].squeeze(0) for name in self._names]
        return ClippedSum(sums, patients.sums(loss_R.detach()), found.norm_G)


@dataclass(frozen=True, repr=False)
class Call:
    """One layer's call: (K, B, ...) or, of one site, (B, ...)."""

    name: str
    layer: nn.Module
    x: Tensor
    output: Tensor


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Keep inputs and outputs of all layers with trained weights while the block runs."""
    calls: list[Call] = []

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(Call(name, layer, inputs[0].detach(), output))

    handles = [
        layer.register_forward_hook(partial(keep, name))
        for name, layer in model.named_modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, repr=False)
class DenseSums:
    """The clipped sums by parameter, (K, ...) each, and the norms before clipping."""

    sums: dict[str, Tensor]
    norm_G: Tensor


def clipped_sums(
    calls: Sequence[Call],
    loss_R: Tensor,
    patients: Patients,
    *,
    max_norm: Tensor | float,
    num_sites: int | None = None,
) -> DenseSums:
    """Return the clipped sums of the patients' gradients, from one backward pass.

    Args:
        calls: what `recorded` kept.
        loss_R: the rows' losses, each already weighted by its share of its patient's loss.
        patients: whose the rows are; a patient is at one site.
        max_norm: C, or (G,) of them.
        num_sites: K, where the model is stacked; None for one site.
    """
    if len({call.name for call in calls}) < len(calls):
        raise RuntimeError("a layer was called twice; its gradient is no single sum of products")
    outputs = [call.output for call in calls]
    gradients = torch.autograd.grad(loss_R.sum(), outputs, materialize_grads=True)
    rules = [
        _rule(call, gradient, num_sites) for call, gradient in zip(calls, gradients, strict=True)
    ]
    squares = [rule.square_norms(patients) for rule in rules]
    # Where rows cancel, rounding can leave a sum of products below zero.
    norm_G = torch.stack(squares).sum(0).clamp(min=0.0).sqrt()
    is_finite_G = norm_G.isfinite()
    if not bool(is_finite_G.all()):  # 0 times not-a-number is not-a-number
        for rule in rules:
            rule.leave_out(~is_finite_G[patients.group_R])
    factor_R = clip_factors(norm_G, max_norm)[patients.group_R]
    found: dict[str, Tensor] = {}
    for call, rule in zip(calls, rules, strict=True):
        named = {name for name, p in call.layer.named_parameters(recurse=False) if p.requires_grad}
        prefix = f"{call.name}." if call.name else ""
        found |= {prefix + key: s for key, s in rule.sums(factor_R).items() if key in named}
    return DenseSums(found, norm_G)


class _Rule(Protocol):
    """The gradients of one layer's weights."""

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows by the name of the weight: (K, ...)."""


class _Linear:
    """Of a linear layer: norms by Gram matrices, or from the gradient where that is smaller."""

    def __init__(self, layer: nn.Module, x: Tensor, d: Tensor, num_sites: int | None) -> None:
        assert isinstance(layer, nn.Linear)
        self._is_stacked = num_sites is not None
        self._num_sites = num_sites or 1
        num_rows = len(x) if num_sites is None else x.shape[0] * x.shape[1]
        self._x_RTi = x.reshape(num_rows, -1, x.shape[-1])
        self._d_RTo = d.reshape(num_rows, -1, d.shape[-1])
        self._trains_weight = layer.weight.requires_grad
        self._trains_bias = layer.bias is not None and layer.bias.requires_grad

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""
        x_GTi, d_GTo = self._x_RTi, self._d_RTo
        if not patients.is_one_each:
            x_GTi, d_GTo = (patients.side_by_side(v).flatten(1, 2) for v in (x_GTi, d_GTo))
        num_tokens, num_in, num_out = x_GTi.shape[1], x_GTi.shape[2], d_GTo.shape[2]
        if num_tokens == 1:
            size_G = d_GTo.square().sum((1, 2))
            times_G = x_GTi.square().sum((1, 2)) if self._trains_weight else 0.0
            return size_G * (times_G + float(self._trains_bias))
        if num_tokens * (num_in + num_out) <= num_in * num_out:
            gram_GTT = torch.bmm(x_GTi, x_GTi.mT) if self._trains_weight else 0.0
            both_GTT = torch.bmm(d_GTo, d_GTo.mT) * (gram_GTT + float(self._trains_bias))
            return both_GTT.sum((1, 2))
        square_G = d_GTo.new_zeros(len(d_GTo))
        if self._trains_weight:
            square_G = square_G + torch.bmm(d_GTo.mT, x_GTi).square().sum((1, 2))
        if self._trains_bias:
            square_G = square_G + d_GTo.sum(1).square().sum(1)
        return square_G

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""
        self._x_RTi = self._x_RTi.masked_fill(rows_R.view(-1, 1, 1), 0.0)
        self._d_RTo = self._d_RTo.masked_fill(rows_R.view(-1, 1, 1), 0.0)

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows: (K, o, i) and (K, o)."""
        d_RTo = self._d_RTo * factor_R.view(-1, 1, 1)
        d_Kro = d_RTo.reshape(self._num_sites, -1, d_RTo.shape[-1])
        found = {"bias": d_Kro.sum(1)} if self._trains_bias else {}
        if self._trains_weight:
            x_Kri = self._x_RTi.reshape(self._num_sites, -1, self._x_RTi.shape[-1])
            # Laid out as the weights are: stacked ones column by column.
            if self._is_stacked:
                found["weight"] = torch.bmm(x_Kri.mT, d_Kro).mT
            else:
                found["weight"] = torch.mm(d_Kro[0].T, x_Kri[0]).unsqueeze(0)
        return found


class _WrittenOut:
    """Of a layer with few weights: the gradient of each row is in memory, by name (R, ...)."""

    def __init__(self, rows: dict[str, Tensor], num_sites: int | None) -> None:
        self._rows = rows
        self._num_sites = num_sites or 1

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""
        by_weight = [patients.sums(g_R).flatten(1).square().sum(1) for g_R in self._rows.values()]
        return torch.stack(by_weight).sum(0)

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""
        self._rows = {
            name: g_R.masked_fill(rows_R.view(-1, *(1,) * (g_R.dim() - 1)), 0.0)
            for name, g_R in self._rows.items()
        }

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows: (K, ...)."""
        factor_K1B = factor_R.view(self._num_sites, 1, -1)
        return {
            name: torch.bmm(
                factor_K1B, g_R.reshape(self._num_sites, factor_K1B.shape[2], -1)
            ).reshape(self._num_sites, *g_R.shape[1:])
            for name, g_R in self._rows.items()
        }


def _rule(call: Call, d: Tensor, num_sites: int | None) -> _Rule:
    if isinstance(call.layer, nn.Linear):
        return _Linear(call.layer, call.x, d, num_sites)
    x = call.x
    if num_sites is not None:
        x, d = x.flatten(0, 1), d.flatten(0, 1)
    rows = _ROWS[type(call.layer)](call.layer, x, d)
    trained = {name for name, p in call.layer.named_parameters(recurse=False) if p.requires_grad}
    return _WrittenOut({name: g for name, g in rows.items() if name in trained}, num_sites)


def _layer_norm(layer: Any, x: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, F) of scale and shift for x, d of (R, ..., F)."""
    normal = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    shape = (len(x), -1, x.shape[-1])
    return {
        "weight": (d * normal).reshape(shape).sum(1),
        "bias": d.reshape(shape).sum(1),
    }


def _group_norm(layer: Any, x: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, F) of scale and shift for x, d of (R, F)."""
    normal = functional.group_norm(x, layer.num_groups, eps=layer.eps)
    return {"weight": d * normal, "bias": d}


def _tokenizer(layer: Any, x: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, N, w, d), (R, N, d), (R, d) for columns x (R, F)."""
    columns_RNw = functional.pad(x, (0, 1))[..., layer.column_Nw]
    tokens_RNd = d[:, 1:]
    return {
        "weight": columns_RNw.unsqueeze(-1) * tokens_RNd.unsqueeze(-2),
        "bias": tokens_RNd,
        "class_token": d[:, 0],
    }


_ROWS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], dict[str, Tensor]]] = {
    nn.LayerNorm: _layer_norm,
    layers.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    ft_transformer.FieldTokenizer: _tokenizer,
}
