"""Clipped sums of dense networks from one backward pass, without a gradient per patient in memory.

The pass gives the gradient of the loss at the outputs of every layer. From those and the layer's
inputs follow the norms of the patients' gradients, and the sum of the clipped ones
(`fedward.client.privacy.dense_rules`).

Every layer here also takes K stacked sites (`fedward.common.models.layers`). One site is K = 1.

Source: Li et al. 2022, "Large Language Models Can Be Strong Differentially Private Learners",
arXiv:2110.05679, section 4 (ghost clipping), after Goodfellow 2015, arXiv:1510.01799; as one pass,
Kong and Munoz Medina 2023, arXiv:2311.05778.

Shapes: K sites, B rows of each, R = K * B, G patients.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from fedward.client.privacy.clipping import ClippedSum, are_finite, clip_factors
from fedward.client.privacy.dense_rules import (
    Call,
    PlainLinears,
    Rule,
    TokenLinear,
    TrainedLayer,
    WrittenOut,
)
from fedward.client.privacy.patients import Patients
from fedward.common.models import (
    MLP,
    FTTransformer,
    LogisticRegression,
    ft_transformer,
    layers,
    low_rank,
)
from fedward.common.task import Batch, Loss

_LINEAR = (nn.Linear, layers.Linear)
_DENSE = (
    *_LINEAR, nn.LayerNorm, layers.LayerNorm, nn.GroupNorm, nn.Dropout, nn.Identity, nn.ReLU,
    nn.GELU, nn.Tanh, nn.Sequential,
    LogisticRegression, MLP, FTTransformer, low_rank.Adapted,
    ft_transformer.FieldTokenizer, ft_transformer.Block,
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
        self._layers = trained_layers(model)
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]

    def clipped_sum(self, batch: Batch, patients: Patients, max_norm: float) -> ClippedSum:
        """Return the sum over the patients of the batch, of which there is at least one."""
        with recorded(self._layers) as calls:
            loss_R = self._loss_per_sample(self._model(batch), batch)
        if not patients.is_one_each:
            loss_R = loss_R * patients.share_R.to(loss_R.dtype)
        found = clipped_sums(calls, loss_R, patients, max_norm=max_norm)
        sums = [found.sums[name][0] for name in self._names]
        return ClippedSum(sums, patients.sums(loss_R.detach()), found.norm_G)


def trained_layers(model: nn.Module) -> list[TrainedLayer]:
    """Return the layers that own trained weights."""
    found = []
    for prefix, layer in model.named_modules(prefix=""):
        own = [name for name, p in layer.named_parameters(recurse=False) if p.requires_grad]
        if own:
            full = {name: f"{prefix}.{name}" if prefix else name for name in own}
            found.append(TrainedLayer(layer, full))
    return found


@contextmanager
def recorded(layers: Sequence[TrainedLayer]) -> Iterator[list[Call]]:
    """Keep inputs and outputs of the layers while the block runs."""
    calls: list[Call] = []

    def keep(
        trained: TrainedLayer, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        del layer
        calls.append(Call(trained, inputs[0].detach(), output))

    handles = [each.layer.register_forward_hook(partial(keep, each)) for each in layers]
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
    if len({id(call.trained) for call in calls}) < len(calls):
        raise RuntimeError("a layer was called twice; its gradient is no single sum of products")
    gradients = torch.autograd.grad(
        loss_R, [call.output for call in calls], torch.ones_like(loss_R), materialize_grads=True
    )
    rules = _rules(calls, gradients, num_sites)
    square_G = reduce(torch.add, [rule.square_norms(patients) for rule in rules])
    # Where rows cancel, rounding can leave a sum of products below zero.
    norm_G = square_G.clamp(min=0.0).sqrt()
    if not are_finite(norm_G):  # 0 times not-a-number is not-a-number
        broken_R = patients.by_row(~norm_G.isfinite())
        for rule in rules:
            rule.leave_out(broken_R)
    factor_R = patients.by_row(clip_factors(norm_G, max_norm))
    found: dict[str, Tensor] = {}
    for rule in rules:
        found |= rule.sums(factor_R)
    return DenseSums(found, norm_G)


def _rules(calls: Sequence[Call], gradients: Sequence[Tensor], num_sites: int | None) -> list[Rule]:
    num_axes = 2 if num_sites is None else 3
    plain: list[tuple[Call, Tensor]] = []
    rules: list[Rule] = []
    for call, d in zip(calls, gradients, strict=True):
        is_linear = isinstance(call.trained.layer, nn.Linear)
        if is_linear and call.x.dim() == num_axes:
            plain.append((call, d))
        elif is_linear:
            rules.append(TokenLinear(call, d, num_sites))
        else:
            rules.append(WrittenOut(call, d, num_sites))
    return [PlainLinears(plain, num_sites), *rules] if plain else rules
