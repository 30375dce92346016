"""Trains many sites that share an architecture as one stacked model, each on its own patients.

Small models leave a processor mostly waiting for the next kernel to be launched; a kernel that
serves a hundred sites costs hardly more than one for a single site. Results are those of
`train_locally`, site by site, up to rounding.

Every weight gets a leading axis of sites, and `torch.func.functional_call` runs the model with it
(`fedward.common.models.layers` says how). The backward pass is one ordinary pass over the sum of
the sites' losses: exact, because no site's loss depends on another site's weights.

Shapes: S sites, D floating-point values of the model, K sites that are still busy, B rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedward.client.cme import RoundWatch
from fedward.client.corrections import Correction, Corrector
from fedward.client.memory import activation_bytes
from fedward.client.optimizers import Optimizer
from fedward.client.privacy.ghost import recorded, trained_layers
from fedward.client.privacy.stack import PrivateSite, Stack
from fedward.client.sampling import Sampler
from fedward.client.schedule import Drawn, Ints, Schedule, StackedBatch, draw
from fedward.client.training import LocalResult, Parameters, PlainStep
from fedward.common.models import MLP, FTTransformer, LogisticRegression, ft_transformer, layers
from fedward.common.parameters import ParameterSet
from fedward.common.task import PatientDataset
from fedward.common.vectors import Vector

MEMORY_LIMIT_BYTES = 256 * 2**20
COPIES = 8  # of a site's weights: start, weights, gradient, two moments, correction, scratch
_STACKABLE = (
    layers.Linear, layers.LayerNorm, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh, nn.Sequential,
    LogisticRegression, MLP,
    FTTransformer, ft_transformer.FieldTokenizer, ft_transformer.Block,
)  # fmt: skip

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StackedResult:
    """What each site learned, in the order in which the sites were given.

    Args:
        results: one per site.
        vectors_SD: wire vectors of `ParameterSet.of(model)`, one row per site.
        tallies: of private training, what each site's steps saw; it is private.
    """

    results: list[LocalResult]
    vectors_SD: Matrix
    tallies: Sequence[dict[str, float]] = ()


def can_stack(model: nn.Module) -> bool:
    """Return whether `train_stacked` can train `model`.

    Only layers are let in that treat every sample alone, draw no random numbers, and gain by it:
    convolutions are slower stacked on a CPU, batch normalisation couples samples, dropout would
    draw other numbers. Any other class, such as a user's own, is trained one site at a time.
    """
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    return all(type(module) in _STACKABLE for module in model.modules()) and all(
        value.dtype == torch.float32 for value in floats
    )


def train_stacked(  # noqa: PLR0913 - the parts of `train_locally`, for many sites
    model: nn.Module,
    datasets: Sequence[PatientDataset],
    start: Matrix | Vector,
    *,
    step: PlainStep,
    sampler: Sampler,
    rngs: Sequence[torch.Generator],
    watches: Sequence[RoundWatch] = (),
    private: Sequence[PrivateSite] = (),
) -> StackedResult:
    """Return what every site learned; `model` keeps its weights.

    Args:
        model: the architecture, accepted by `can_stack`.
        datasets: each site's training patients, with the same keys, on the model's device.
        start: (D,) for all sites, or (S, D), wire vectors of `ParameterSet.of(model)`.
        step: loss, optimiser and correction; every site has its own optimiser state.
        sampler: draws each site's batches.
        rngs: one per site, the same as for `train_locally`.
        watches: one per site, which look on at the site's own steps; or none.
        private: one per site, where gradients are clipped per patient and noised; or none.

    Raises:
        ValueError: `can_stack(model)` is False.
    """
    if not can_stack(model):
        raise ValueError("this model cannot be trained stacked; ask can_stack() first")
    model.train()
    full = ParameterSet.of(model)
    start_SD = np.broadcast_to(start, (len(datasets), full.size))
    trained_SD = np.empty(start_SD.shape, dtype=np.float32)
    loss_S = np.empty(len(datasets))
    drawn = [
        draw(data, sampler, rng, keep_empty=bool(private))
        for data, rng in zip(datasets, rngs, strict=True)
    ]
    tallies: list[dict[str, float]] = [{} for _ in private]
    for sites in _chunks(model, datasets, drawn):
        chunk = _Chunk(model, start_SD[sites], step, sites)
        if private:
            chunk.make_private([private[site] for site in sites])
        lookouts = _Lookouts(chunk, sites, watches, drawn)
        lookouts.after(0)
        batches = Schedule([datasets[s] for s in sites], [drawn[s] for s in sites])
        for number, batch in enumerate(batches, start=1):
            chunk.step(batch)
            lookouts.after(number)
        trained_SD[sites], loss_S[sites] = chunk.vectors_SD(), chunk.loss_S()
        for site, tally in zip(sites if private else (), chunk.tallies(), strict=True):
            tallies[site] = tally
    results = [
        LocalResult(loss, len(site.lengths), len(data))
        for loss, site, data in zip(loss_S.tolist(), drawn, datasets, strict=True)
    ]
    return StackedResult(results, trained_SD, tallies)


class _Chunk:
    """The weights of S sites while they are trained.

    Args:
        model: the architecture.
        start_SD: the sites' wire vectors.
        step: how to train.
        sites: (S,) their positions among all sites, which a correction has one row each for.
    """

    def __init__(self, model: nn.Module, start_SD: Matrix, step: PlainStep, sites: Ints) -> None:
        self._model = model
        self._loss_per_sample = step.loss_per_sample
        self._full = ParameterSet.of(model)
        device = next(model.parameters()).device
        tensors = _tensors(self._full, torch.from_numpy(start_SD).to(device))
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        self._trained = {name: t for name, t in tensors.items() if name in trainable}
        self._fixed = {name: t for name, t in tensors.items() if name not in trainable}
        self._optimizer = Optimizer(step.optimizer, list(self._trained.values()))
        self._correct = _corrector(step.correction, self._trained, sites)
        self._loss_S = torch.zeros(len(sites), dtype=torch.float64, device=device)
        self._num_rows_S = torch.zeros_like(self._loss_S)
        self._stack: Stack | None = None
        self._layers = trained_layers(model)

    def make_private(self, sites: Sequence[PrivateSite]) -> None:
        """Clip and noise the gradients of every step from now on."""
        shapes = {name: tuple(t.shape[1:]) for name, t in self._trained.items()}
        self._stack = Stack(sites, shapes, self._loss_S.device)

    def step(self, batch: StackedBatch) -> None:
        """Take one step of the first K sites."""
        num_busy = len(batch.weight_KB)
        trained = {name: t[:num_busy].requires_grad_() for name, t in self._trained.items()}
        leaves = list(trained.values())
        gradients: Sequence[Tensor]
        if self._stack is None:
            losses = self._losses(trained, batch)
            loss_K = (losses.view_as(batch.weight_KB) * batch.weight_KB).sum(dim=1)
            gradients = torch.autograd.grad(loss_K.sum(), leaves, materialize_grads=True)
        else:
            with recorded(self._layers) as calls:
                losses = self._losses(trained, batch)
            named, loss_K = self._stack.gradients(calls, losses, batch)
            gradients = [named[name] for name in trained]
        if self._correct is not None:
            gradients = self._correct(leaves, gradients, num_busy)
        self._optimizer.step(gradients, num_first=num_busy)
        self._loss_S[:num_busy] += loss_K.detach() * batch.num_rows_K
        self._num_rows_S[:num_busy] += batch.num_rows_K

    def _losses(self, trained: dict[str, Tensor], batch: StackedBatch) -> Tensor:
        """Return the (K * B,) losses."""
        num_busy, size = batch.weight_KB.shape
        fixed = {name: t[:num_busy] for name, t in self._fixed.items()}
        rows = {key: x.view(num_busy, size, *x.shape[1:]) for key, x in batch.rows.items()}
        outputs: Tensor = functional_call(self._model, trained | fixed, (rows,))
        # The loss never couples samples, so that the samples of all sites can be one batch for it.
        return self._loss_per_sample(outputs.flatten(0, 1), batch.rows)

    def tallies(self) -> Sequence[dict[str, float]]:
        """Return what the private steps of each site saw; nothing of plain ones."""
        stack = self._stack
        return [] if stack is None else [stack.summary(row) for row in range(len(self._loss_S))]

    def parameters_of(self, row: int) -> Parameters:
        """Return one site's weights by name, as they are now."""
        return {name: t[row] for name, t in (self._trained | self._fixed).items()}

    def vectors_SD(self) -> Matrix:
        """Return the sites' wire vectors."""
        tensors = self._trained | self._fixed
        parts = [tensors[name].reshape(len(self._loss_S), -1) for name in self._full.names]
        vectors: Matrix = torch.cat(parts, dim=1).cpu().numpy()
        return vectors

    def loss_S(self) -> npt.NDArray[np.float64]:
        """Return the sites' mean losses; NaN where a site had no rows."""
        losses: npt.NDArray[np.float64] = (self._loss_S / self._num_rows_S).cpu().numpy()
        return losses


class _Lookouts:
    """Who looks at which site of a chunk after which step.

    Args:
        chunk: the sites' weights.
        sites: (S,) their positions among all sites.
        watches: of all sites, or none.
        drawn: the batches of all sites.
    """

    def __init__(
        self,
        chunk: _Chunk,
        sites: Ints,
        watches: Sequence[RoundWatch],
        drawn: Sequence[Drawn],
    ) -> None:
        self._chunk = chunk
        self._due: dict[int, list[tuple[int, RoundWatch]]] = {}
        for row, site in enumerate(sites if watches else ()):
            watch, num_steps = watches[site], len(drawn[site].lengths)
            for step in (0, *watch.steps):
                if step <= num_steps:  # a site with fewer is never asked again
                    self._due.setdefault(step, []).append((row, watch))

    def after(self, step: int) -> None:
        """Let everybody look whose site has just taken its step number `step`."""
        for row, watch in self._due.get(step, ()):
            watch.look(step, self._chunk.parameters_of(row))


def _tensors(of: ParameterSet, vectors_SD: Tensor) -> dict[str, Tensor]:
    """Return the wire vectors as named tensors (S, *shape), which share no memory with them.

    Matrices are laid out column by column: so are the gradients of a linear layer, and the
    optimiser need not turn them round at every step.
    """
    pieces = torch.split(vectors_SD, list(of.sizes), dim=1) if of.names else ()
    tensors = {}
    for name, shape, piece in zip(of.names, of.shapes, pieces, strict=True):
        tensor = piece.reshape(-1, *shape)
        if len(shape) == 2:
            tensor = tensor.transpose(1, 2).clone(memory_format=torch.contiguous_format)
            tensors[name] = tensor.transpose(1, 2)
        else:
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    return tensors


def _corrector(
    correction: Correction | None, trained: dict[str, Tensor], sites: Ints
) -> Corrector | None:
    if correction is None:
        return None
    vector = correction.vector
    vectors_SD = vector[sites] if vector.ndim == 2 else np.tile(vector, (len(sites), 1))
    given = _tensors(correction.shared, torch.from_numpy(vectors_SD))
    terms = [given[name].to(t.device) if name in given else None for name, t in trained.items()]
    return Corrector(correction, terms)


def _chunks(
    model: nn.Module, datasets: Sequence[PatientDataset], drawn: Sequence[Drawn]
) -> list[Ints]:
    """Return the sites in falling order of their steps, cut so that a chunk fits in memory."""
    num_steps_S = np.array([len(site.lengths) for site in drawn], dtype=np.int64)
    order = np.argsort(-num_steps_S, kind="stable")
    batch_rows = max((max(site.lengths) for site in drawn if site.lengths), default=0)
    if not batch_rows:
        return [order]
    row = {key: column[:1] for key, column in datasets[int(order[0])].rows.items()}
    weight_bytes = sum(p.nbytes for p in model.parameters())
    site_bytes = COPIES * weight_bytes + 2 * batch_rows * activation_bytes(model, row)
    size = max(1, MEMORY_LIMIT_BYTES // site_bytes)
    return [order[place : place + size] for place in range(0, len(order), size)]
