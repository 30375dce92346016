"""Private training of one site over the rounds of a run: how much noise, and what was spent.

The noise follows from the budget, all planned rounds and the site's own number of patients. A
round that would pass the budget is refused before it begins; who keeps the books, and where the
random numbers come from, is `account.py`.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from fedward.client.corrections import Correction
from fedward.client.optimizers import OptimizerSettings
from fedward.client.privacy.account import Account, Cost, SeededAccount
from fedward.client.privacy.figures import count_table, figures_of, noised_table
from fedward.client.privacy.method import Method, method_for
from fedward.client.privacy.sampling import PoissonSampler, capped
from fedward.client.privacy.step import Mechanism, PrivateStep, Tally
from fedward.client.report_form import PRIVACY
from fedward.client.site import Site
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.config.run import LocalConfig
from fedward.common.errors import BudgetSpentError, ConfigError, RefusedError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.noise import NoiseSource
from fedward.common.privacy.targets import Target, drowning
from fedward.common.randomness import torch_generator
from fedward.common.records import DITTO_LAMBDA, LOSS_OF_RECEIVED_MODEL, Instruction
from fedward.common.task import Loss, Outcomes, PatientDataset

FIGURES = "figures"
"""What noised figures are called in a ledger."""
_log = logging.getLogger("fedward.privacy")


@dataclass(frozen=True, repr=False)
class PrivateRound:
    """One round of one site, paid for.

    Args:
        mechanism: of each of its steps.
        noise: the source of this round's.
        patients: with no more records of each than the run uses.
        report: what may be told: `epsilon` of the run so far, with that of the runs it goes on
            from, `delta`, noise, sampling rate.
        tally: gets what its steps see.
        is_simulated: whether nobody's privacy is at stake.
    """

    mechanism: Mechanism
    noise: NoiseSource
    patients: PatientDataset
    report: dict[str, float]
    tally: Tally
    is_simulated: bool

    def told(self, seen: Mapping[str, float]) -> dict[str, float]:
        """Return what may be told of the round when it is over.

        Signal over noise follows from what leaves anyway. How many gradients were clipped is
        private: a hospital's own log has it, and a simulation tells.

        Args:
            seen: as `Tally.summary` returns it.
        """
        _log.info(
            "signal over noise %.2g; clipped %.0f %% of the gradients",
            seen.get("signal_to_noise", math.inf), 100 * seen.get("clipped", 0),
        )  # fmt: skip
        names = ("signal_to_noise", "clipped") if self.is_simulated else ("signal_to_noise",)
        return {**self.report, **{name: seen[name] for name in names if name in seen}}


class PrivateTraining:
    """Plans the private rounds of the sites of a run.

    Args:
        privacy: of the run, switched on.
        local: what a site does in one round.
        rounds: all that are planned.
        seed: of the run; which records of a patient are used follows from it.
        num_parameters: that are trained; where noise drowns them, a warning says so.
        evaluate_every: rounds between two evaluations, which noised figures pay for.
        account: of the site, at a hospital; None: that of simulated sites, **whose noise follows
            from the seed**.

    Raises:
        ConfigError: the figures promise nothing.
    """

    def __init__(  # noqa: PLR0913 - the promise, and all that its price follows from
        self,
        privacy: PrivacyConfig,
        local: LocalConfig,
        *,
        rounds: int,
        seed: int,
        num_parameters: int = 1,
        evaluate_every: int = 1,
        account: Account | None = None,
    ) -> None:
        self._account = SeededAccount(seed) if account is None else account
        self._max_records = privacy.max_records
        self.sampler = PoissonSampler(
            local.batch_size, epochs=local.epochs, steps=local.steps, secret=self._account.coins
        )
        assert privacy.max_grad_norm is not None, "the configuration demands it"
        assert privacy.delta is not None, "the configuration demands it"
        self._max_grad_norm, self._delta = privacy.max_grad_norm, privacy.delta
        self.figures = privacy.figures
        self._figures_noise = privacy.figures_noise or 0.0
        beside: tuple[Segment, ...] = ()
        if privacy.figures == "noised":
            beside = (Segment(self._figures_noise, 1.0, -(-rounds // evaluate_every)),)
        self._target = Target(
            privacy.delta,
            rounds,
            epsilon=privacy.epsilon,
            noise_multiplier=privacy.noise_multiplier,
            beside=beside,
        )
        self._seed = seed
        self._num_parameters = num_parameters
        self._method: Method | None = None

    def begin(self, site: Site, instruction: Instruction, data: PatientDataset) -> PrivateRound:
        """Pay for a round of a site, before a patient is looked at, and return it.

        Args:
            site: whose.
            instruction: that asks for it.
            data: its patients; how many there are counts as known.

        Raises:
            BudgetSpentError, RefusedError: with this round the site would have spent more than
                the run may, or than the site allows.
            ConfigError: delta is too large for so few patients, or no noise is enough.
        """
        if DITTO_LAMBDA in instruction.options or LOSS_OF_RECEIVED_MODEL in instruction.options:
            raise RefusedError(
                "privacy.mode: dp-sgd: the message asks for a use of patients that is not accounted"
            )
        num_patients, number = len(data), instruction.binding.round_number
        rate, steps = self.sampler.rate(num_patients), self.sampler.num_steps(num_patients)
        before = self._account.before(site)
        try:
            noise = self._target.noise_at(rate, steps, num_patients=num_patients, before=before)
        except BudgetSpentError as error:
            raise RefusedError(f"privacy: site {site.site_id}: {error}") from error
        cost = Cost(Segment(noise, rate, steps), self._delta, self._target.epsilon)
        history = self._account.reserve(site, instruction, cost)
        if number == 1:
            self._warn(site.site_id, noise, num_patients)
        return PrivateRound(
            Mechanism(noise, self._max_grad_norm, rate * num_patients),
            self._account.noise(site, instruction),
            self._capped(data, site.site_id, number),
            {
                "epsilon": epsilon_of(history, self._delta),
                "delta": self._delta,
                "noise_multiplier": noise,
                "sample_rate": rate,
            },
            Tally(),
            is_simulated=self._account.coins is None,
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
            tally=private.tally,
        )

    def figures_of(
        self,
        site: Site,
        instruction: Instruction,
        outcomes: Outcomes | None,
        test: PatientDataset,
    ) -> dict[str, Any]:
        """Return what a report says of a site's test patients: figures with noise, or none.

        Args:
            site: whose.
            instruction: that asks for them.
            outcomes: of the rows, as the task returns them.
            test: the patients.

        Raises:
            BudgetSpentError, RefusedError: as `begin`.
            ConfigError: such figures do not exist for the task.
        """
        if self.figures == "none":
            return {"metrics": {}, PRIVACY: {}}
        if outcomes is None:
            raise ConfigError(
                "privacy.figures: noised figures exist for tables with two classes; use none"
            )
        deviation = self._figures_noise
        cost = Cost(Segment(deviation, 1.0, 1), self._delta, self._target.epsilon, FIGURES)
        history = self._account.reserve(site, instruction, cost)
        source = self._account.noise(site, instruction, FIGURES)
        table_OB = noised_table(count_table(*outcomes, test.starts), deviation, source)
        found = {name: asdict(one) for name, one in figures_of(table_OB, deviation).items()}
        spent = {"epsilon": epsilon_of(history, self._delta), "delta": self._delta}
        return {"metrics": found, PRIVACY: spent}

    def _warn(self, site: str, noise: float, num_patients: int) -> None:
        """Say where noise leaves little to be learnt."""
        rate, steps = self.sampler.rate(num_patients), self.sampler.num_steps(num_patients)
        assert self._target.rounds is not None
        said = drowning(
            noise,
            num_patients=num_patients,
            patients_per_step=rate * num_patients,
            num_steps=steps * self._target.rounds,
            num_parameters=self._num_parameters,
        )
        if said is not None:
            _log.warning("site %s: %s", site, said)

    def _capped(self, data: PatientDataset, site: str, number: int) -> PatientDataset:
        if self._max_records is None:
            return data
        rng = torch_generator(self._seed, purpose="records", site=site, round_number=number)
        return capped(data, self._max_records, rng)
