"""Trains many sites that share an architecture as one stacked model, each on its own patients.

Small models leave a processor mostly waiting for the next kernel to be launched; a kernel that
serves a hundred sites costs hardly more than one for a single site. Results are those of
`train_locally`, site by site, up to rounding.

The weights are one (S, D) matrix, a wire vector per site. The forward pass is
`torch.func.functional_call` under `vmap`; the backward pass is one ordinary pass over the sum of
the sites' losses, which is cheaper than `vmap(grad)`, and exact because no site's loss depends on
another site's weights.

Shapes: S sites, D floating-point values of the model, d trainable ones, K sites still busy, B rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedward.client.corrections import Correction, Pull
from fedward.client.optimizers import Optimizer
from fedward.client.sampling import Sampler
from fedward.client.schedule import Ints, Schedule, StackedBatch, draw
from fedward.client.training import LocalResult, PlainStep
from fedward.common.models.ft_transformer import Block, FieldTokenizer, FTTransformer
from fedward.common.models.linear import LogisticRegression
from fedward.common.models.mlp import MLP
from fedward.common.parameters import ParameterSet
from fedward.common.task import Batch, PatientDataset
from fedward.common.vectors import Vector

MEMORY_LIMIT_BYTES = 256 * 2**20
COPIES = 8  # of a site's weights: start, weights, gradient, two moments, correction, scratch
_CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict,
    LogisticRegression, MLP, FTTransformer, FieldTokenizer, Block,
)  # fmt: skip
_DENSE = (
    nn.Linear, nn.LayerNorm, nn.Identity, nn.Flatten,
    nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus,
)  # fmt: skip

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StackedResult:
    """What each site learned, in the order in which the sites were given.

    Args:
        results: one per site.
        vectors_SD: wire vectors of `ParameterSet.of(model)`, one row per site.
    """

    results: list[LocalResult]
    vectors_SD: Matrix


def can_stack(model: nn.Module) -> bool:
    """Return whether `train_stacked` can train `model`.

    Only layers are let in that treat every sample alone, draw no random numbers, and are faster
    stacked: convolutions are slower on a CPU, batch normalisation couples samples. Any other
    class, such as a user's own, is trained one site at a time.
    """
    return all(
        type(module) in _CONTAINERS
        or type(module) in _DENSE
        or (type(module) is nn.Dropout and module.p == 0)
        for module in model.modules()
    ) and _is_plain_float32(model)


def train_stacked(  # noqa: PLR0913 - the parts of `train_locally`, for many sites
    model: nn.Module,
    datasets: Sequence[PatientDataset],
    start: Matrix | Vector,
    *,
    step: PlainStep,
    sampler: Sampler,
    rngs: Sequence[torch.Generator],
) -> StackedResult:
    """Return what every site learned; `model` keeps its weights.

    Args:
        model: the architecture, accepted by `can_stack`.
        datasets: each site's training patients.
        start: (D,) for all sites, or (S, D), wire vectors of `ParameterSet.of(model)`.
        step: loss, optimiser and correction; every site has its own optimiser state.
        sampler: draws each site's batches.
        rngs: one per site, the same as for `train_locally`.

    Raises:
        ValueError: `can_stack(model)` is False.
    """
    if not can_stack(model):
        raise ValueError("this model cannot be trained stacked; ask can_stack() first")
    model.train()
    layout = _Layout(model)
    start_SD = np.broadcast_to(start, (len(datasets), layout.full.size))
    trained_SD = np.empty(start_SD.shape, dtype=np.float32)
    loss_S = np.empty(len(datasets))
    drawn = [draw(data, sampler, rng) for data, rng in zip(datasets, rngs, strict=True)]
    for sites in _chunks(model, datasets, drawn, num_values=layout.full.size):
        schedule = Schedule([datasets[s] for s in sites], [drawn[s] for s in sites])
        chunk = _Chunk(layout, start_SD[sites], step, _Stacked(step.correction, sites, layout))
        for batch in schedule:
            chunk.step(batch)
        trained_SD[sites], loss_S[sites] = chunk.vectors_SD(), chunk.loss_S()
    results = [
        LocalResult(float(loss), len(batches), len(data))
        for loss, batches, data in zip(loss_S, drawn, datasets, strict=True)
    ]
    return StackedResult(results, trained_SD)


def _is_plain_float32(model: nn.Module) -> bool:
    named = dict(model.named_parameters(remove_duplicate=False))
    tied = len(named) > len(list(model.parameters()))
    floats = [v for v in model.state_dict().values() if v.is_floating_point()]
    return bool(named) and not tied and all(value.dtype == torch.float32 for value in floats)


class _Layout:
    """Which columns of the wire vector are trained, and how a matrix of them becomes tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.full = ParameterSet.of(model)
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        self.trained = _part(self.full, trainable)
        self.fixed = _part(self.full, set(self.full.names) - trainable)

    def forward(self, trained_Kd: Tensor, fixed_Kf: Tensor, rows: Batch) -> Tensor:
        """Return the outputs of k sites on their k * B rows, (K * B, ...)."""
        k = len(trained_Kd)
        state = _tensors(self.trained, trained_Kd) | _tensors(self.fixed, fixed_Kf)
        batches = {key: column.view(k, -1, *column.shape[1:]) for key, column in rows.items()}
        outputs: Tensor = vmap(self._forward_one, randomness="different")(state, batches)
        return outputs.flatten(0, 1)

    def _forward_one(self, state: dict[str, Tensor], batch: Batch) -> Tensor:
        outputs: Tensor = functional_call(self.model, state, (batch,))
        return outputs


class _Chunk:
    """The weights of S sites while they are trained."""

    def __init__(
        self, layout: _Layout, start_SD: Matrix, step: PlainStep, correct: "_Stacked"
    ) -> None:
        self._layout = layout
        self._loss_per_sample = step.loss_per_sample
        self._correct = correct
        self._all_SD = torch.from_numpy(start_SD).to(layout.device)
        self._columns = _columns(layout.trained, layout.full).to(layout.device)
        self._trained_Sd = self._all_SD[:, self._columns]
        self._fixed_Sf = self._all_SD[:, _columns(layout.fixed, layout.full).to(layout.device)]
        self._optimizer = Optimizer(step.optimizer, [self._trained_Sd])
        self._loss_S = torch.zeros(len(start_SD), dtype=torch.float64, device=layout.device)
        self._num_rows_S = torch.zeros_like(self._loss_S)

    def step(self, batch: StackedBatch) -> None:
        """Take one step of the first K sites."""
        k, size = batch.weight_KB.shape
        trained_Kd = self._trained_Sd[:k].detach().requires_grad_()
        outputs = self._layout.forward(trained_Kd, self._fixed_Sf[:k], batch.rows)
        # The loss never couples samples, so that all sites' samples can be one batch for it.
        losses_KB = self._loss_per_sample(outputs, batch.rows).view(k, size)
        loss_K = (losses_KB * batch.weight_KB).sum(dim=1)
        (gradient_Kd,) = torch.autograd.grad(loss_K.sum(), trained_Kd)
        gradient_Kd = self._correct(trained_Kd.detach(), gradient_Kd)
        self._optimizer.step([gradient_Kd], num_first=k)
        self._loss_S[:k] += loss_K.detach() * batch.num_rows_K
        self._num_rows_S[:k] += batch.num_rows_K

    def vectors_SD(self) -> Matrix:
        """Return the sites' wire vectors."""
        self._all_SD[:, self._columns] = self._trained_Sd
        vectors: Matrix = self._all_SD.cpu().numpy()
        return vectors

    def loss_S(self) -> npt.NDArray[np.float64]:
        """Return the sites' mean losses; NaN where a site had no rows."""
        losses: npt.NDArray[np.float64] = (self._loss_S / self._num_rows_S).cpu().numpy()
        return losses


class _Stacked:
    """A correction of the gradients of stacked sites; None adds nothing."""

    def __init__(self, correction: Correction | None, sites: Ints, layout: _Layout) -> None:
        self._strength_d: Tensor | None = None
        self._term_Sd: Tensor | None = None
        if correction is None:
            return
        trained, shared = layout.trained, correction.shared
        vector = correction.anchor if isinstance(correction, Pull) else correction.by
        vector_SD = vector[sites] if vector.ndim == 2 else np.tile(vector, (len(sites), 1))
        both = set(shared.names) & set(trained.names)
        here, there = _columns(_part(shared, both), trained), _columns(_part(shared, both), shared)
        term_Sd = torch.zeros(len(sites), trained.size)
        term_Sd[:, here] = torch.from_numpy(vector_SD)[:, there]
        self._term_Sd = term_Sd.to(layout.device)
        if isinstance(correction, Pull):
            strength_d = torch.zeros(trained.size)
            strength_d[here] = correction.strength
            self._strength_d = strength_d.to(layout.device)

    def __call__(self, trained_Kd: Tensor, gradient_Kd: Tensor) -> Tensor:
        """Return the corrected gradient of the first K sites."""
        if self._term_Sd is None:
            return gradient_Kd
        term_Kd = self._term_Sd[: len(gradient_Kd)]
        if self._strength_d is None:
            return gradient_Kd + term_Kd
        return gradient_Kd.addcmul(trained_Kd - term_Kd, self._strength_d)


def _chunks(
    model: nn.Module,
    datasets: Sequence[PatientDataset],
    drawn: Sequence[Sequence[Tensor]],
    *,
    num_values: int,
) -> list[Ints]:
    """Return the sites in falling order of their steps, cut so that a chunk fits in memory."""
    num_steps_S = np.array([len(batches) for batches in drawn], dtype=np.int64)
    order = np.argsort(-num_steps_S, kind="stable")
    batch_rows = max((len(batch) for batches in drawn for batch in batches), default=0)
    if not batch_rows:
        return [order]
    busiest = int(order[0])
    row = {key: column[:1] for key, column in datasets[busiest].rows.items()}
    site_bytes = COPIES * 4 * num_values + 2 * batch_rows * _activation_bytes(model, row)
    size = max(1, MEMORY_LIMIT_BYTES // site_bytes)
    return [order[place : place + size] for place in range(0, len(order), size)]


def _activation_bytes(model: nn.Module, batch: Batch) -> int:
    """Return the bytes that one forward pass keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in weights:
            kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(batch)
    return kept


def _part(whole: ParameterSet, names: set[str]) -> ParameterSet:
    chosen = [(n, s) for n, s in zip(whole.names, whole.shapes, strict=True) if n in names]
    return ParameterSet(tuple(n for n, _ in chosen), tuple(s for _, s in chosen))


def _columns(part: ParameterSet, whole: ParameterSet) -> Tensor:
    """Return the places of the values of `part` in a wire vector of `whole`."""
    pieces = dict(zip(whole.names, torch.split(torch.arange(whole.size), list(whole.sizes)), strict=True))
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(pieces[name] for name in part.names)])


def _tensors(part: ParameterSet, values_Kd: Tensor) -> dict[str, Tensor]:
    """Return the rows of `values_Kd` as named tensors (K, *shape)."""
    pieces = torch.split(values_Kd, list(part.sizes), dim=1) if part.names else ()
    return {
        name: piece.reshape(-1, *shape)
        for name, shape, piece in zip(part.names, part.shapes, pieces, strict=True)
    }
