"""Trains many sites that share an architecture as one stacked model, each on its own patients.

Small models leave a processor mostly waiting for the next kernel to be launched; a kernel that
serves a hundred sites costs hardly more than one for a single site. Results are those of
`train_locally`, site by site, up to rounding.

The weights are one (S, D) matrix, a wire vector per site. The forward pass is
`torch.func.functional_call` under `vmap`; the backward pass is one ordinary pass over the sum of
the sites' losses, which is cheaper than `vmap(grad)`, and exact because no site's loss depends on
another site's weights.

Shapes: S sites, D floating-point values of the model, d trainable ones, k sites still busy, B rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedward.client.corrections import Correction, Pull
from fedward.client.optimizers import Optimizer
from fedward.client.sampling import Sampler
from fedward.client.schedule import Schedule, StackedBatch, make_schedule
from fedward.client.training import LocalResult, PlainStep
from fedward.common.models.ft_transformer import Block, FieldTokenizer, FTTransformer
from fedward.common.models.linear import LogisticRegression
from fedward.common.models.mlp import MLP
from fedward.common.parameters import ParameterSet
from fedward.common.task import PatientDataset
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
    ) and all(value.dtype == torch.float32 for value in _floating_state(model).values())


def train_stacked(  # noqa: PLR0913 - the parts of `train_locally`, for many sites
    model: nn.Module,
    datasets: Sequence[PatientDataset],
    start: npt.NDArray[np.float32],
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
    full = ParameterSet.of(model)
    start_SD = np.broadcast_to(start, (len(datasets), full.size))
    trained_SD = np.empty(start_SD.shape, dtype=np.float32)
    results: list[LocalResult] = []
    for sites in _chunks(model, datasets, sampler, step):
        chunk = _Chunk(model, full, step, sites)
        schedule = make_schedule(datasets[sites], sampler, rngs[sites])
        trained_SD[sites] = chunk.train(schedule, start_SD[sites])
        results += chunk.results(schedule, datasets[sites])
    return StackedResult(results, trained_SD)
