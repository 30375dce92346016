"""A trainer whose updates are clipped, and in the privacy mode `local` noised, before they leave.

It stands around the trainer of a run whose `privacy.mode` is `central` or `local`, so that whatever
trains, the gate sees only what may leave. Only answers to training are touched.

* `central`: the update is clipped here; the server clips again, adds the noise and accounts for it.
* `local`: the round is paid for before it is trained, clipped, and noised here, from the site's own
  source. What leaves then costs the site's patients no more than the ledger says, whoever sees it.

Flower's mods do the same to messages and are not used: given to an app they run on evaluations too,
and every such reply becomes an error; an update of zero divides by zero; NaN passes their bound
(`min(1, C / nan)` is 1); their noise comes from numpy's global generator, without composition over
rounds and with the classical bound, which does not hold above epsilon 1.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedward.client.privacy.account import Account, Cost, SeededAccount
from fedward.client.report_form import CLIPPED, PRIVACY
from fedward.client.site import Site
from fedward.client.trainer import NOT_TOLD, Trainer
from fedward.common.errors import RefusedError
from fedward.common.privacy.accounting import epsilon_of
from fedward.common.privacy.updates import UpdateNoise, clipped
from fedward.common.records import PARAMETERS, Instruction, Update
from fedward.common.study import Study

WHAT = "update"
"""Names the noise, and the entry in a hospital's ledger."""


def protected(trainer: Trainer, study: Study, account: Account | None = None) -> Trainer:
    """Return a trainer that keeps the promise which the study makes to its sites.

    In other privacy modes, and in baselines, of which nothing leaves a site, it is `trainer`.

    Args:
        trainer: of the study.
        study: with its privacy.
        account: of the site, at a hospital; None: that of simulated sites, **whose noise follows
            from the seed**.
    """
    privacy = study.config.privacy
    if privacy is None or not privacy.protects_sites or study.kind != "federated":
        return trainer
    noise = UpdateNoise.of(privacy, study.config.rounds)
    is_simulated = study.config.data.is_simulated
    assert account is not None or is_simulated or not noise.is_local, "noise would have a seed"
    return ProtectedTrainer(
        trainer, noise, account or SeededAccount(study.seed), is_simulated=is_simulated
    )


class ProtectedTrainer:
    """Trains as another trainer does, and lets its updates through clipped and noised.

    Args:
        inner: trains.
        noise: how long an update may be, and how it is hidden.
        account: where noise comes from and is paid; not used in `central`.
        is_simulated: whether nobody's privacy is at stake: then it is told what was clipped.
    """

    def __init__(
        self, inner: Trainer, noise: UpdateNoise, account: Account, *, is_simulated: bool
    ) -> None:
        self._inner = inner
        self._noise = noise
        self._account = account
        self._is_simulated = is_simulated

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        """Let the trainer see the jobs."""
        self._inner.prefill(jobs)

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        """Return the figures of the received model, as they are: they are not part of the promise.

        Raises:
            NoPatientsError: there is no test patient.
        """
        return self._inner.evaluate(site, instruction)

    def train(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's new vectors, as they may leave; its loss is not told.

        Raises:
            BudgetSpentError, RefusedError: a budget does not allow this round, or the message
                asks for more than a model.
            SiteDataError: training gave NaN or infinite values.
        """
        if set(instruction.vectors) != {PARAMETERS}:
            raise RefusedError(
                "privacy.mode: the message asks for more than the model, and that would leave "
                "neither clipped nor noised"
            )
        report = self._pay(site, instruction)
        update = self._inner.train(site, instruction)
        received = instruction.vectors[PARAMETERS]
        change, was_clipped = clipped(
            update.vectors[PARAMETERS], received, max_norm=self._noise.max_norm
        )
        if self._noise.is_local:
            source = self._account.noise(site, instruction, WHAT)
            change = self._noise.noised(change, source)
            report["signal_to_noise"] = self._noise.signal_to_noise(change)
        if self._is_simulated:  # elsewhere it would tell of the patients
            report[CLIPPED] = float(was_clipped)
        vector = (received + change).astype(np.float32)
        return replace(
            update,
            loss=NOT_TOLD,
            vectors={PARAMETERS: vector},
            report={**update.report, PRIVACY: report},
        )

    def _pay(self, site: Site, instruction: Instruction) -> dict[str, float]:
        """Pay for a round of `local`, before a patient is looked at; return what may be told."""
        noise = self._noise
        step = noise.of_a_round
        told = {
            "delta": noise.delta,
            "noise_multiplier": step.noise_multiplier,
            "sample_rate": step.sample_rate,
        }
        if not noise.is_local:
            return told
        cost = Cost(step, noise.delta, noise.epsilon, WHAT)
        history = self._account.reserve(site, instruction, cost)
        return {"epsilon": epsilon_of(history, noise.delta), **told}
