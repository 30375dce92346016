"""Private training of one site over the rounds of a run: how much noise, and what was spent.

The noise follows from the budget, all planned rounds and the site's own number of patients. What
was spent is carried from round to round with the site's other state; a round that would pass the
budget is refused before it begins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.client.privacy.noise import NoiseSource, SeededNoise
from fedward.client.privacy.sampling import PoissonSampler
from fedward.client.privacy.step import Mechanism
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.config.run import LocalConfig
from fedward.common.errors import BudgetSpentError
from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.targets import Target
from fedward.common.randomness import torch_generator

STORED = "privacy"
"""Name of what was spent in a site's store."""
Spent = npt.NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True)
class PrivateRound:
    """One round of one site, paid for.

    Args:
        mechanism: of each of its steps.
        spent: (segments, 3) noise multiplier, sampling rate and steps, with this round.
        report: what may be told: `epsilon` of the run so far, `delta`, noise, sampling rate.
    """

    mechanism: Mechanism
    spent: Spent
    report: dict[str, float]


class PrivateTraining:
    """Plans the private rounds of the sites of a run.

    Args:
        privacy: of the run, switched on.
        local: what a site does in one round.
        rounds: all that are planned.
        seed: of the run. **The noise follows from it**: this is for simulations.

    Raises:
        ConfigError: the figures promise nothing.
    """

    def __init__(
        self, privacy: PrivacyConfig, local: LocalConfig, *, rounds: int, seed: int
    ) -> None:
        self.max_records = privacy.max_records
        self.sampler = PoissonSampler(local.batch_size, epochs=local.epochs, steps=local.steps)
        assert privacy.max_grad_norm is not None, "the configuration demands it"
        assert privacy.delta is not None, "the configuration demands it"
        self._max_grad_norm, self._delta = privacy.max_grad_norm, privacy.delta
        self._target = Target(
            privacy.delta,
            rounds,
            epsilon=privacy.epsilon,
            noise_multiplier=privacy.noise_multiplier,
        )
        self._seed = seed

    def begin(self, site: str, num_patients: int, before: dict[str, Any] | None) -> PrivateRound:
        """Return the next round of a site.

        Args:
            site: its name, for messages.
            num_patients: that may be drawn.
            before: what the site remembers of the rounds before (`STORED`); None: nothing.

        Raises:
            BudgetSpentError: with this round the site would have spent more than the run may.
            ConfigError: delta is too large for so few patients, or no noise is enough.
        """
        rate, steps = self.sampler.rate(num_patients), self.sampler.num_steps(num_patients)
        noise = self._target.noise_at(rate, steps, num_patients=num_patients)
        rows = [] if before is None else before["spent"].tolist()
        history = merged(
            [Segment(sigma, q, int(count)) for sigma, q, count in rows]
            + [Segment(noise, rate, steps)]
        )
        epsilon, limit = epsilon_of(history, self._delta), self._target.epsilon
        if limit is not None and not epsilon <= limit * (1 + ROUNDING):
            raise BudgetSpentError(
                f"site {site}: this round would bring epsilon to {epsilon:.3g}, above "
                f"privacy.epsilon {limit:g}; it was planned for {self._target.rounds} rounds"
            )
        return PrivateRound(
            Mechanism(noise, self._max_grad_norm, rate * num_patients),
            np.array([[s.noise_multiplier, s.sample_rate, s.num_steps] for s in history]),
            {
                "epsilon": epsilon,
                "delta": self._delta,
                "noise_multiplier": noise,
                "sample_rate": rate,
            },
        )

    def noise(self, site: str, round_number: int) -> NoiseSource:
        """Return the source of a site's noise in a round. It follows from the seed."""
        generator = torch_generator(
            self._seed, purpose="privacy-noise", site=site, round_number=round_number
        )
        return SeededNoise(generator)
