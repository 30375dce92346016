"""Central differential privacy: the server adds one noise to the mean of the sites' updates.

Each update is clipped (at its site, and here again, in float64, so that the bound holds whatever a
site does), every site counts the same, and noise goes to their sum. A strategy is then given the
noised mean as if a single site had sent it: FedAvg takes it as it is, and what the server's
optimisers (FedAdam and its kin) make of it costs nothing more.

Flower's `DifferentialPrivacyClientSideFixedClipping` is not used. It adds noise to what a strategy
returns: after FedAdam's division by a running variance the sensitivity is not C / n any more.
Outside of its accounted mode it lets a site's claimed number of patients decide its weight; inside,
a round with one reply missing is thrown away, and only the class FedAvg itself is allowed. Its
noise comes from numpy's global generator, and neither its accountant nor a strategy inside it would
be in a checkpoint. Where both apply, its clipping and deviation are ours (a test compares them).

Unit and neighbours: `common/privacy/updates.py`. How many sites answer is taken to be known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from flwr.app import Message, MetricRecord

from fedward.common.config.run import RunConfig
from fedward.common.errors import BudgetSpentError, ConfigError
from fedward.common.flower import Records, view
from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.noise import NoiseSource, SecretNoise, SeededNoise
from fedward.common.privacy.updates import Floats, UpdateNoise, clipped
from fedward.common.randomness import torch_generator
from fedward.common.records import PARAMETERS, array_record, arrays_of
from fedward.common.vectors import Vector

SPENT = "spent"
"""Of `Progress.vectors`: (segments, 3) noise multiplier, sampling rate and rounds, all released."""
ROUNDING = 1e-9
Source = Callable[[int], NoiseSource]


@dataclass(frozen=True)
class CentralNoise:
    """The noise of a run in the privacy mode `central`.

    Args:
        noise: how much.
        source: by round. In a simulation **it follows from the seed**.
    """

    noise: UpdateNoise
    source: Source

    @classmethod
    def of(cls, config: RunConfig, *, num_sites: int, seed: int) -> Self | None:
        """Return that of a run; None in any other mode.

        Args:
            config: of the run.
            num_sites: of the federation.
            seed: of the repetition; not used at hospitals, where noise must be secret.

        Raises:
            ConfigError: delta promises nothing to so few sites, or no noise is enough.
        """
        privacy = config.privacy
        if privacy is None or privacy.mode != "central":
            return None
        noise = UpdateNoise.of(privacy, config.rounds)
        if noise.delta * num_sites >= 1:
            raise ConfigError(
                f"privacy.delta: given {noise.delta:g}, which is not below one over the "
                f"{num_sites} sites: it would allow one of them to be shown whole"
            )
        secret = None if config.data.is_simulated else SecretNoise()

        def source(number: int) -> NoiseSource:
            return secret or SeededNoise(
                torch_generator(seed, purpose="central-noise", round_number=number)
            )

        return cls(noise, source)

    def spend(self, before: Floats | None) -> Floats:
        """Return what one more round comes to, before anybody is asked for it.

        Args:
            before: as `SPENT`; None: nothing was released.

        Raises:
            BudgetSpentError: it is more than the run may spend.
        """
        history = merged([*_segments(before), self.noise.of_a_round])
        epsilon, limit = epsilon_of(history, self.noise.delta), self.noise.epsilon
        if limit is not None and not epsilon <= limit * (1 + ROUNDING):
            raise BudgetSpentError(
                f"this round would bring epsilon of every site to {epsilon:.3g}, above "
                f"privacy.epsilon {limit:g}; the run was planned for fewer rounds"
            )
        return np.array([[s.noise_multiplier, s.sample_rate, s.num_steps] for s in history])

    def epsilon_of(self, spent: Floats | None) -> float:
        """Return what the released rounds have cost every site."""
        return epsilon_of(_segments(spent), self.noise.delta)

    def release(self, number: int, received: Vector, messages: Sequence[Message]) -> Message:
        """Return a reply that holds the received model moved by the noised mean of the updates.

        Args:
            number: of the round.
            received: (D,) the model that the sites began with.
            messages: their replies, checked, at least one.
        """
        total = np.zeros(len(received))
        for message in messages:  # one by one: many full models in float64 do not fit in memory
            new = view(arrays_of(message.content)[PARAMETERS])
            total += clipped(new, received, self.noise.max_norm)[0]
        step = self.noise.noised(total, self.source(number)) / len(messages)
        mean = messages[0]
        mean.content = Records(
            {
                "arrays": array_record({PARAMETERS: (received + step).astype(np.float32)}),
                "metrics": MetricRecord({"num-examples": 1, "train_loss": 0.0}),
            }
        )
        return mean


def _segments(spent: Floats | None) -> list[Segment]:
    rows = [] if spent is None else spent.tolist()
    return [Segment(sigma, rate, int(count)) for sigma, rate, count in rows]
