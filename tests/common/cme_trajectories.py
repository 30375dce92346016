"""Weights of a 128 x 128 layer over rounds of ten epochs, with known answers.

Shapes: P output neurons, Q inputs.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from fedward.common.monitoring.elements import Form
from fedward.common.monitoring.stream import CmeStream, LayerRound

HALVES_IN = 8.5
"""Epochs."""
Matrix = npt.NDArray[np.float64]
Trajectory = Callable[[int], Matrix]

NUM_EPOCHS = 10
NUM_ROUNDS = 12
SIZE = 128
SCALE = 1 / np.sqrt(SIZE)


def noise_PQ(epoch: int, purpose: int = 0) -> Matrix:
    """Return what is drawn at one epoch, of the size of the weights."""
    generator = np.random.default_rng((7, purpose, epoch))
    return np.asarray(SCALE * generator.standard_normal((SIZE, SIZE)))


AIM_PQ, AWAY_PQ = noise_PQ(0, 1), noise_PQ(0, 2)


def _left(epoch: int) -> float:
    return float(0.5 ** (epoch / HALVES_IN))


def exponential(epoch: int) -> Matrix:
    """The size of a step halves in 8.5 epochs: below 1e-3 of the weights from round 6 on."""
    return AIM_PQ + 0.8 * AWAY_PQ * _left(epoch)


def converging(epoch: int) -> Matrix:
    """It comes near, until noise of 1 % outweighs the steps, about round 4."""
    return AIM_PQ + 0.8 * AWAY_PQ * _left(epoch) + 0.01 * noise_PQ(epoch)


def stationary(epoch: int) -> Matrix:
    return AIM_PQ + 0.01 * noise_PQ(epoch)


def drift(epoch: int) -> Matrix:
    """It goes on and on in one direction."""
    return AIM_PQ + 0.003 * epoch * AWAY_PQ + 0.0001 * noise_PQ(epoch)


def frozen(epoch: int) -> Matrix:
    return AIM_PQ


def stall_and_go(epoch: int) -> Matrix:
    """Two rounds of going, six of standing with noise of 0.6 %, and from round 9 on it goes."""
    steps = min(epoch, 2 * NUM_EPOCHS) + max(epoch - 8 * NUM_EPOCHS, 0)
    is_going = epoch <= 2 * NUM_EPOCHS or epoch >= 8 * NUM_EPOCHS
    return AIM_PQ + 0.005 * steps * AWAY_PQ + (0.0001 if is_going else 0.006) * noise_PQ(epoch)


def random_walk() -> Trajectory:
    """Return one: every step has a direction of its own."""
    places = [AIM_PQ]

    def place(epoch: int) -> Matrix:
        while len(places) <= epoch:
            places.append(places[-1] + 0.01 * noise_PQ(len(places) - 1))
        return places[epoch]

    return place


TRAJECTORIES: dict[str, Callable[[], Trajectory]] = {
    "exponential": lambda: exponential,
    "converging": lambda: converging,
    "stationary": lambda: stationary,
    "random walk": random_walk,
    "drift": lambda: drift,
    "frozen": lambda: frozen,
    "stall and go": lambda: stall_and_go,
}


def rounds_of(
    trajectory: Trajectory, form: Form, num_rounds: int = NUM_ROUNDS
) -> Iterator[LayerRound]:
    """Return what each round came to."""
    previous = None
    for start in range(0, num_rounds * NUM_EPOCHS, NUM_EPOCHS):
        stream = CmeStream(trajectory(start), form, name="layer")
        for epoch in range(1, NUM_EPOCHS + 1):
            stream.add(trajectory(start + epoch))
        found = stream.finish(previous)
        previous = found.map_PP
        yield found
