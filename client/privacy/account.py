"""What a private round draws on: random numbers, and the budget of the patients.

At a hospital the numbers are secret, and a round is written into the site's ledger before it is
trained. In a simulation both follow from the run: the numbers from its seed, and what was spent
from its own rounds before.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Planned
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.site import Site
from fedward.client.site_memory import recall, remember
from fedward.common.errors import BudgetSpentError, ConfigError, RefusedError
from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.noise import NoiseSource, SecretNoise, SeededNoise
from fedward.common.randomness import torch_generator
from fedward.common.records import Binding, Instruction

ROUNDING = 1e-9
TRAINING = "training"
STORED, SPENT = "privacy", "spent"
"""Where a simulated site's store has what was spent: (segments, 3)."""
Earlier = Callable[[str], tuple[Segment, ...]]


@dataclass(frozen=True)
class Cost:
    """What is about to be spent.

    Args:
        segment: all steps that are planned.
        delta: of the run.
        epsilon: the most that the run may spend at a site, with those that it goes on from; None:
            what its rounds come to.
        what: training, or the statistic that leaves.
    """

    segment: Segment
    delta: float
    epsilon: float | None = None
    what: str = TRAINING


class Account(Protocol):
    """Where a site's private rounds get their randomness, and what they are paid from."""

    coins: NoiseSource | None
    """Draws patients; None: the round's own generator does."""

    def before(self, site: Site) -> tuple[Segment, ...]:
        """Return what the site has spent in the runs that this one goes on from."""

    def noise(self, site: Site, instruction: Instruction, what: str = TRAINING) -> NoiseSource:
        """Return the source of the noise of one round; every number of it is used once."""

    def reserve(self, site: Site, instruction: Instruction, cost: Cost) -> tuple[Segment, ...]:
        """Pay, and return everything that the run, and those before, have spent with it.

        Args:
            site: whose patients.
            instruction: what was asked.
            cost: what is planned.

        Raises:
            BudgetSpentError, RefusedError: it is more than there is.
        """


class SeededAccount:
    """The account of simulated sites: **whoever knows the seed can take the noise off again**.

    Args:
        seed: of the run.
        earlier: returns what a site has spent in the runs that this one goes on from.
        stage: how many those are: runs of one seed must not draw the same noise.
    """

    coins: NoiseSource | None = None

    def __init__(self, seed: int, earlier: Earlier = lambda site: (), *, stage: int = 0) -> None:
        self._seed = seed
        self._earlier = earlier
        self._stage = f"-stage-{stage}" if stage else ""

    def before(self, site: Site) -> tuple[Segment, ...]:
        """Return what the site has spent in earlier runs."""
        return self._earlier(site.site_id)

    def noise(self, site: Site, instruction: Instruction, what: str = TRAINING) -> NoiseSource:
        """Return numbers that follow from the seed, the site and the round."""
        purpose = "privacy-noise" if what == TRAINING else f"privacy-noise-{what}"
        purpose += self._stage
        number = instruction.binding.round_number
        return SeededNoise(
            torch_generator(self._seed, purpose=purpose, site=site.site_id, round_number=number)
        )

    def reserve(self, site: Site, instruction: Instruction, cost: Cost) -> tuple[Segment, ...]:
        """Remember at the site what was spent with it, if that is no more than the run may.

        Raises:
            BudgetSpentError: it is.
            StorageError: the site's store cannot be written.
        """
        kept = recall(site, instruction, STORED)
        known = self.before(site) if kept is None else spent_of(kept)
        history = merged([*known, cost.segment])
        check_run_budget(site.site_id, history, cost)
        spent = np.array([[s.noise_multiplier, s.sample_rate, s.num_steps] for s in history])
        remember(site, instruction, STORED, {SPENT: spent})
        return history


def spent_of(kept: Mapping[str, npt.NDArray[Any]]) -> tuple[Segment, ...]:
    """Return what a simulated site has spent, as its store keeps it."""
    rows = kept[SPENT].tolist()
    return tuple(Segment(sigma, rate, int(count)) for sigma, rate, count in rows)


class SiteAccount:
    """The account of one run at a hospital.

    Args:
        ledger: of the site.
        data: whose patients.
        study: the run's name, for people.
        after: the runs that it goes on from, by their keys.
    """

    def __init__(
        self, ledger: PrivacyLedger, data: DataSet, *, study: str, after: Sequence[str] = ()
    ) -> None:
        self.ledger = ledger
        self.data = data
        self._study = study
        self._after = frozenset(after)
        self.coins: NoiseSource | None = SecretNoise()
        self._noise = SecretNoise()

    def before(self, site: Site) -> tuple[Segment, ...]:
        """Return what the ledger says of earlier runs, whoever their patients were."""
        return self.ledger.spent_in(self._after) if self._after else ()

    def noise(self, site: Site, instruction: Instruction, what: str = TRAINING) -> NoiseSource:
        """Return numbers that nobody can know."""
        return self._noise

    def reserve(self, site: Site, instruction: Instruction, cost: Cost) -> tuple[Segment, ...]:
        """Write it down in the ledger, on disk, and return what the run has spent.

        Raises:
            RefusedError: the site's budget or the run's is spent, or delta promises nothing.
            StorageError: the ledger is damaged, or cannot be written; then nothing is trained.
        """
        binding = instruction.binding
        planned = Planned(
            message_id=name_of(binding),
            run_key=binding.run_key,
            study=self._study,
            round_number=binding.round_number,
            segments=(cost.segment,),
            delta=cost.delta,
            purpose=cost.what,
        )

        before = self.before(site)

        def check(history: tuple[Segment, ...]) -> None:
            check_run_budget(site.site_id, merged([*before, *history]), cost)

        try:
            of_run = self.ledger.reserve(planned, self.data, check_run=check).of_run
            return merged([*before, *of_run])
        except (BudgetSpentError, ConfigError) as error:
            raise RefusedError(f"privacy: {error}") from error

    def release(self, binding: Binding) -> None:
        """Write down that the result of a message leaves now.

        Raises:
            RefusedError: nothing was reserved for it, or its result has left already.
            StorageError: it cannot be written; then nothing leaves.
        """
        self.ledger.release(name_of(binding))


def check_run_budget(site: str, history: Sequence[Segment], cost: Cost) -> None:
    """Return if a run may have spent `history` at a site.

    Raises:
        BudgetSpentError: it may not.
    """
    if cost.epsilon is None:
        return
    epsilon = epsilon_of(history, cost.delta)
    if not epsilon <= cost.epsilon * (1 + ROUNDING):
        raise BudgetSpentError(
            f"site {site}: {cost.what} of this round would bring epsilon to {epsilon:.3g}, above "
            f"privacy.epsilon {cost.epsilon:g}; the run was planned for fewer rounds"
        )


def name_of(binding: Binding) -> str:
    """Return what a message is called in the ledger: equal for a message that comes again."""
    return hashlib.sha256(binding.text.encode()).hexdigest()
