"""Private training of one site over the rounds of a run: how much noise, and what was spent.

The noise follows from the budget, all planned rounds and the site's own number of patients. What
was spent is carried from round to round with the site's other state; a round that would pass the
budget is refused before it begins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward.client.corrections import Correction
from fedward.client.optimizers import OptimizerSettings
from fedward.client.privacy.method import Method, method_for
from fedward.client.privacy.noise import NoiseSource, SeededNoise
from fedward.client.privacy.sampling import PoissonSampler, capped
from fedward.client.privacy.step import Mechanism, PrivateStep
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.config.run import LocalConfig
from fedward.common.errors import BudgetSpentError
from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.targets import Target
from fedward.common.randomness import torch_generator
from fedward.common.task import Loss, PatientDataset

STORED = "privacy"
"""Name of what was spent in a site's store."""
Spent = npt.NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True, repr=False)
class PrivateRound:
    """One round of one site, paid for.

    Args:
        mechanism: of each of its steps.
        noise: the source of this round's.
        patients: with no more records of each than the run uses.
        spent: (segments, 3) noise multiplier, sampling rate and steps, with this round.
        report: what may be told: `epsilon` of the run so far, `delta`, noise, sampling rate.
    """

    mechanism: Mechanism
    noise: NoiseSource
    patients: PatientDataset
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
        self._max_records = privacy.max_records
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
        self._method: Method | None = None

    def begin(
        self, site: str, number: int, data: PatientDataset, before: dict[str, Any] | None
    ) -> PrivateRound:
        """Return a round of a site.

        Args:
            site: its name.
            number: of the round.
            data: its patients; how many there are counts as known.
            before: what the site remembers of the rounds before (`STORED`); None: nothing.

        Raises:
            BudgetSpentError: with this round the site would have spent more than the run may.
            ConfigError: delta is too large for so few patients, or no noise is enough.
        """
        num_patients = len(data)
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
            SeededNoise(self._generator("privacy-noise", site, number)),
            self._capped(data, site, number),
            np.array([[s.noise_multiplier, s.sample_rate, s.num_steps] for s in history]),
            {
                "epsilon": epsilon,
                "delta": self._delta,
                "noise_multiplier": noise,
                "sample_rate": rate,
            },
        )

    def step(
        self,
        private: PrivateRound,
        model: nn.Module,
        loss: Loss,
        *,
        optimizer: OptimizerSettings,
        correction: Correction | None,
    ) -> PrivateStep:
        """Return the step that trains the run's model in a round.

        Raises:
            ConfigError: the network cannot be trained privately.
        """
        if self._method is None:  # tried out once: it depends on the form of rows alone
            self._method = method_for(model, loss, private.patients.all_rows())
        return PrivateStep(
            loss,
            optimizer,
            correction,
            method=self._method,
            mechanism=private.mechanism,
            noise=private.noise,
        )

    def _capped(self, data: PatientDataset, site: str, number: int) -> PatientDataset:
        if self._max_records is None:
            return data
        return capped(data, self._max_records, self._generator("records", site, number))

    def _generator(self, purpose: str, site: str, number: int) -> torch.Generator:
        return torch_generator(self._seed, purpose=purpose, site=site, round_number=number)
