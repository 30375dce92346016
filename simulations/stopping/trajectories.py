"""Federated trajectories whose true loss is known at every round, to calibrate thresholds on.

Site s holds patients x ~ N(0, diag(spectrum)) with outcomes y = W*_s x + noise, and a linear layer
is trained on them with half the mean square error, FedAvg and the platform's own optimisers. Since
W*_s and the spectrum are known, so is the expected loss on new patients of any weights W:

    L(W) = mean over sites of  1/2 mean over rows of  (W - W*_s) diag(spectrum) (W - W*_s)^T

plus a constant; no test set is needed, and no trajectory is guessed to have converged.

Beside them, weights that no optimiser moved (`plain_trajectories`): of these no mathematics is
needed to see whether they go anywhere.

Shapes: T trajectories, S sites, P outputs, Q inputs, N patients, R rounds.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedward.client.cme import snapshot_steps
from fedward.client.optimizers import Optimizer, OptimizerSettings
from fedward.common.config.monitor import CmeConfig
from fedward.common.monitoring.stream import CmeStream
from fedward.common.monitoring.telemetry import ALL, let_through
from fedward.common.randomness import numpy_generator, torch_generator

LAYER = "layer"
SITES = ("site-1", "site-2", "site-3", "site-4")
PATIENTS = 100
BATCH_SIZE = 20
CONDITION = 20.0
"""Largest over smallest variance of an input."""
SUFFICIENT = 0.01
"""A round is good enough when later ones gain no more than this share of the whole gain."""

PLAIN_SIZE = 32
PLAIN_EPOCHS = 10
HALVES_IN = 8.5
"""Epochs."""

Layers = Mapping[str, Mapping[str, float]]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """One kind of trajectory."""

    optimizer: OptimizerSettings
    num_outputs: int
    num_inputs: int
    noise: float
    """Standard deviation of the outcome's noise; without it that of the outcome is 1."""
    spread: float
    """How far the sites' best weights lie from their mean, relative to it; 0: IID."""
    epochs: int
    """Local ones, per round."""


@dataclass(frozen=True)
class Trajectories:
    """Repetitions of one setting.

    Args:
        true_round: from which nothing worth while is gained any more; None: not yet at the end.
        rounds: by repetition, round and site, the figures of the layer as they leave a site.
        loss_RT: expected loss on new patients after each round, from round 0, beyond the end.
    """

    true_round: int | None
    rounds: Sequence[Sequence[Mapping[str, Layers]]]
    loss_RT: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _World:
    """What is true: inputs x_KNQ and outcomes y_KNP of K = T * S sites, and the best weights."""

    x_KNQ: Tensor
    y_KNP: Tensor
    best_KPQ: Tensor
    spectrum_Q: Tensor


def run_setting(
    setting: Setting, *, seed: int, num_repetitions: int, num_rounds: int, num_rounds_truth: int
) -> Trajectories:
    """Return the trajectories of a setting, and the round from which they have saturated.

    The truth is that of the mean loss over the repetitions: the first round whose loss is above
    the best of all later ones by at most `SUFFICIENT` of the whole gain.

    Args:
        setting: what is trained, and how.
        seed: of data, first weights and batches.
        num_repetitions: T.
        num_rounds: that are watched.
        num_rounds_truth: that are trained, to know what would still have been gained.
    """
    rng = torch_generator(seed, purpose="trajectories")
    world = _world(setting, num_repetitions, rng)
    shape = (num_repetitions, 1, setting.num_outputs, setting.num_inputs)
    # As torch initialises a linear layer.
    global_T1PQ = (2 * torch.rand(shape, generator=rng) - 1) / setting.num_inputs**0.5
    losses = [_loss(global_T1PQ, world)]
    rounds: list[list[dict[str, Layers]]] = [[] for _ in range(num_repetitions)]
    maps: list[npt.NDArray[np.float32] | None] = [None] * (num_repetitions * len(SITES))
    for number in range(1, num_rounds_truth + 1):
        snapshots = _train(global_T1PQ, world, setting, rng)
        if number <= num_rounds:
            figures = _figures(snapshots, maps)
            for own, of_sites in zip(rounds, _by_site(figures), strict=True):
                own.append(of_sites)
        last_TSPQ = snapshots[-1].unflatten(0, (num_repetitions, len(SITES)))
        global_T1PQ = last_TSPQ.mean(dim=1, keepdim=True)
        losses.append(_loss(global_T1PQ, world))
    loss_RT = np.array(losses)
    found = true_round(loss_RT.mean(axis=1))
    return Trajectories(found if found <= num_rounds else None, rounds, loss_RT)


def true_round(loss_R: npt.NDArray[np.float64]) -> int:
    """Return the first round after which no more than `SUFFICIENT` of the whole gain is made.

    Args:
        loss_R: after each round, from round 0.
    """
    best_later_R = np.minimum.accumulate(loss_R[::-1])[::-1]
    allowed = SUFFICIENT * (loss_R[0] - loss_R.min())
    return int(np.argmax(loss_R - best_later_R <= allowed))


@dataclass(frozen=True)
class Plain:
    """Figures of one layer whose weights are given, not trained.

    Args:
        name: of the movement.
        settles: whether it ends up going nowhere; else it never does.
        figures: of each round, as they leave a site.
    """

    name: str
    settles: bool
    figures: Sequence[Mapping[str, float]]


def plain_trajectories(*, seed: int, num_repetitions: int, num_rounds: int) -> list[Plain]:
    """Return how six movements of a small layer look, over rounds of ten epochs.

    A random walk and a drift go on for ever. What comes to an aim, with noise or without, what
    is noise about an aim and what is frozen do not.

    Args:
        seed: of what is drawn.
        num_repetitions: of each movement.
        num_rounds: of each.
    """
    return [
        Plain(name, settles, list(_rounds_of(weights(rng), num_rounds)))
        for repetition in range(num_repetitions)
        for name, (settles, weights) in MOVEMENTS.items()
        for rng in [numpy_generator(seed, purpose=f"{name} {repetition}")]
    ]


def _walk(rng: np.random.Generator) -> Iterator[Matrix]:
    weight_PQ = _normal(rng)
    while True:
        yield weight_PQ
        weight_PQ = weight_PQ + 0.01 * _normal(rng)


def _towards(
    approach: Callable[[int], float], noise: float
) -> Callable[[np.random.Generator], Iterator[Matrix]]:
    """Return what yields an aim, `approach(epoch)` of one direction away, with noise."""

    def weights(rng: np.random.Generator) -> Iterator[Matrix]:
        aim_PQ, away_PQ = _normal(rng), _normal(rng)
        for epoch in itertools.count():
            yield aim_PQ + approach(epoch) * away_PQ + noise * _normal(rng)

    return weights


def _normal(rng: np.random.Generator) -> Matrix:
    return rng.standard_normal((PLAIN_SIZE, PLAIN_SIZE)) / math.sqrt(PLAIN_SIZE)


def _halving(epoch: int) -> float:
    return float(0.8 * 0.5 ** (epoch / HALVES_IN))


MOVEMENTS: Mapping[str, tuple[bool, Callable[[np.random.Generator], Iterator[Matrix]]]] = {
    "random walk": (False, _walk),
    "drift": (False, _towards(lambda epoch: 0.003 * epoch, 0.0001)),
    "exponential": (True, _towards(_halving, 0.0)),
    "converging": (True, _towards(_halving, 0.01)),
    "stationary": (True, _towards(lambda epoch: 0.0, 0.01)),
    "frozen": (True, _towards(lambda epoch: 0.0, 0.0)),
}
"""By name: whether it settles, and its weights from the start on."""


def _rounds_of(weights: Iterator[Matrix], num_rounds: int) -> Iterator[Mapping[str, float]]:
    last_PQ = next(weights)
    for _ in range(num_rounds):
        stream = CmeStream(last_PQ, name=LAYER)
        for last_PQ in itertools.islice(weights, PLAIN_EPOCHS):
            stream.add(last_PQ)
        yield let_through({LAYER: stream.finish().figures.to_json()}, (ALL,))[LAYER]


def _world(setting: Setting, num_repetitions: int, rng: torch.Generator) -> _World:
    num = num_repetitions * len(SITES)
    outputs, inputs = setting.num_outputs, setting.num_inputs

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    spectrum_Q = torch.logspace(0, -np.log10(CONDITION), inputs)
    common = normal(num_repetitions, 1, outputs, inputs)
    own = normal(num_repetitions, len(SITES), outputs, inputs)
    best_KPQ = (common + setting.spread * own).flatten(0, 1) / spectrum_Q.sum().sqrt()
    x_KNQ = normal(num, PATIENTS, inputs) * spectrum_Q.sqrt()
    noise = setting.noise * normal(num, PATIENTS, outputs)
    return _World(x_KNQ, x_KNQ @ best_KPQ.mT + noise, best_KPQ, spectrum_Q)


def excess_loss(weight_T1PQ: Tensor, best_TSPQ: Tensor, spectrum_Q: Tensor) -> Tensor:
    """Return L(W) of each repetition (T,), as in the head of this module, without the constant.

    Args:
        weight_T1PQ: one model for all sites.
        best_TSPQ: the best weights of each site.
        spectrum_Q: variances of the inputs.
    """
    away_TSPQ = (weight_T1PQ - best_TSPQ).double().square() * spectrum_Q
    return away_TSPQ.sum(-1).mean(dim=(1, 2)) / 2


def _loss(global_T1PQ: Tensor, world: _World) -> npt.NDArray[np.float64]:
    best_TSPQ = world.best_KPQ.unflatten(0, (-1, len(SITES)))
    found: npt.NDArray[np.float64] = excess_loss(global_T1PQ, best_TSPQ, world.spectrum_Q).numpy()
    return found


def _train(
    global_T1PQ: Tensor, world: _World, setting: Setting, rng: torch.Generator
) -> list[Tensor]:
    """Return the weights (K, P, Q) of all sites as received, and at each snapshot of one round."""
    weight_KPQ = global_T1PQ.expand(-1, len(SITES), -1, -1).flatten(0, 1).clone()
    optimizer = Optimizer(setting.optimizer, [weight_KPQ])
    per_epoch = PATIENTS // BATCH_SIZE
    num_steps = per_epoch * setting.epochs
    due = set(snapshot_steps(num_steps, per_epoch, CmeConfig()))
    snapshots = [weight_KPQ.clone()]
    num = len(weight_KPQ)
    rows = torch.arange(num)[:, None]
    for step in range(num_steps):
        if step % per_epoch == 0:
            order_KN = torch.rand((num, PATIENTS), generator=rng).argsort(dim=1)
        place = step % per_epoch * BATCH_SIZE
        batch = order_KN[:, place : place + BATCH_SIZE]
        x, y = world.x_KNQ[rows, batch], world.y_KNP[rows, batch]
        optimizer.step([(x @ weight_KPQ.mT - y).mT @ x / BATCH_SIZE])
        if step + 1 in due:
            snapshots.append(weight_KPQ.clone())
    return snapshots


def _figures(
    snapshots: Sequence[Tensor], maps: list[npt.NDArray[np.float32] | None]
) -> list[dict[str, float]]:
    """Return the rounded figures of each of the K sites; `maps` are brought up to this round."""
    arrays = [snapshot.double().numpy() for snapshot in snapshots]
    found = []
    for index, previous in enumerate(maps):
        stream = CmeStream(arrays[0][index], name=LAYER)
        for array in arrays[1:]:
            stream.add(array[index])
        this = stream.finish(previous)
        maps[index] = this.map_PP
        told = let_through({LAYER: this.figures.to_json()}, (ALL,))
        found.append(told.get(LAYER, {}))
    return found


def _by_site(figures: Sequence[dict[str, float]]) -> list[dict[str, Layers]]:
    """Return the figures of T * S sites, by repetition and site."""
    step = len(SITES)
    return [
        {site: {LAYER: figures[start + place]} for place, site in enumerate(SITES)}
        for start in range(0, len(figures), step)
    ]
