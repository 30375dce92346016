"""What a site sends in the privacy modes `central` and `local`, and what it pays for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients
from fedward.client.privacy.account import SeededAccount, SiteAccount
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Budget
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.privacy.update_clipping import ProtectedTrainer
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.trainer import NOT_TOLD, Trainer
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.errors import BudgetSpentError, RefusedError, SiteDataError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.updates import UpdateNoise
from fedward.common.records import CONTROL, PARAMETERS, Binding, Instruction, Update
from fedward.common.vectors import Vector

ERROR_RATE = 1e-6
DELTA = 1e-3
NORM = 0.5
ROUNDS = 4


class Fixed:
    """A trainer whose model moves by the same step every time."""

    def __init__(self, step: Vector) -> None:
        self.step = step
        self.trained = 0

    def train(self, site: Site, instruction: Instruction) -> Update:
        self.trained += 1
        moved = instruction.vectors[PARAMETERS] + self.step
        return Update(30, 0.25, {PARAMETERS: moved}, {"seconds": 1.0})

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        return Update(10, 0.5, {}, {"metrics": {}})

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        pass


def site(store: SiteStore | None = None) -> Site:
    def nothing(*args: Any) -> Any:
        raise AssertionError("no patient is read")

    return Site("bern", nothing, nothing, store or SiteStore(None))


def asked(number: int = 1, *, size: int = 3) -> Instruction:
    binding = Binding("run", number, f"nonce{number}", "model", "manifest")
    return Instruction(binding, {PARAMETERS: np.ones(size, np.float32)})


def noise(mode: str, **keys: float) -> UpdateNoise:
    given = keys or {"epsilon": 20.0}
    privacy = PrivacyConfig.model_validate(
        {"mode": mode, "unit": "site", "delta": DELTA, "max_update_norm": NORM, **given}
    )
    return UpdateNoise.of(privacy, ROUNDS)


def protected(mode: str, inner: Trainer, *, seed: int = 1, **keys: float) -> ProtectedTrainer:
    return ProtectedTrainer(inner, noise(mode, **keys), SeededAccount(seed), is_simulated=True)


def step(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def moved(update: Update) -> np.ndarray:
    return update.vectors[PARAMETERS].astype(np.float64) - 1


def test_in_central_an_update_leaves_clipped_without_noise_and_without_its_loss() -> None:
    inner = Fixed(step(3, 4, 0))
    update = protected("central", inner).train(site(), asked())
    # By hand: (3, 4) is 5 long, and 0.5 is allowed.
    np.testing.assert_allclose(moved(update), [0.3, 0.4, 0], atol=1e-6)
    assert update.vectors[PARAMETERS].dtype == np.float32
    assert update.loss == NOT_TOLD
    assert update.report["privacy"]["clipped"] == 1.0
    assert "epsilon" not in update.report["privacy"], "the server says what its noise comes to"
    bare = inner.train(site(), asked())
    np.testing.assert_allclose(moved(bare), [3, 4, 0])
    assert bare.loss != NOT_TOLD


@pytest.mark.parametrize("mode", ["central", "local"])
def test_what_is_not_finite_stays_at_the_site(mode: str) -> None:
    with pytest.raises(SiteDataError, match="NaN or infinite"):
        protected(mode, Fixed(step(np.nan, 0, 0))).train(site(), asked())


def test_an_update_of_nothing_is_sent_and_in_local_it_is_noised_all_the_same() -> None:
    still = Fixed(step(0, 0, 0))
    assert not moved(protected("central", still).train(site(), asked())).any()
    assert moved(protected("local", still).train(site(), asked())).all()


def test_local_noise_has_the_deviation_that_is_accounted() -> None:
    count = 200_000
    still = Fixed(np.zeros(count, np.float32))
    update = protected("local", still, noise_multiplier=1.2).train(site(), asked(size=count))
    low, high = chi2.ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2], count)
    squares = float(np.square(moved(update)).sum())
    assert low < squares / (1.2 * 2 * NORM) ** 2 < high
    assert not low < squares / (1.2 * NORM) ** 2 < high, "noise of an update against none"


def test_noise_differs_between_rounds_sites_and_seeds_and_repeats_with_all_three() -> None:
    def sent(number: int, seed: int) -> Vector:
        trainer = protected("local", Fixed(step(0, 0, 0)), seed=seed)
        return trainer.train(site(), asked(number)).vectors[PARAMETERS]

    np.testing.assert_array_equal(sent(1, 1), sent(1, 1))
    assert not np.array_equal(sent(1, 1), sent(2, 1))
    assert not np.array_equal(sent(1, 1), sent(1, 2))


def test_epsilon_is_that_of_all_rounds_and_the_round_after_the_last_is_not_trained() -> None:
    inner, store = Fixed(step(0, 0, 0)), SiteStore(None)
    trainer = protected("local", inner)
    told = [
        trainer.train(site(store), asked(number)).report["privacy"]["epsilon"]
        for number in range(1, ROUNDS + 1)
    ]
    sigma = noise("local").noise_multiplier
    assert told == [epsilon_of([Segment(sigma, 1.0, n)], DELTA) for n in range(1, ROUNDS + 1)]
    with pytest.raises(BudgetSpentError, match="planned for fewer rounds"):
        trainer.train(site(store), asked(ROUNDS + 1))
    assert inner.trained == ROUNDS, "it is paid for before patients are looked at"


def test_a_round_that_is_run_again_after_an_interruption_is_counted_once() -> None:
    store = SiteStore(None)
    for number in (1, 2, 2, 3):
        again = protected("local", Fixed(step(0, 0, 0)))  # another process
        report = again.train(site(store), asked(number)).report["privacy"]
    sigma = noise("local").noise_multiplier
    assert report["epsilon"] == epsilon_of([Segment(sigma, 1.0, 3)], DELTA)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_message_that_asks_for_more_than_the_model_gets_nothing(mode: str) -> None:
    inner, more = Fixed(step(0, 0, 0)), {**asked().vectors, CONTROL: step(0, 0, 0)}
    with pytest.raises(RefusedError, match="neither clipped nor noised"):
        protected(mode, inner).train(site(), Instruction(asked().binding, more))
    assert inner.trained == 0


def test_evaluations_are_not_touched() -> None:
    inner = Fixed(step(0, 0, 0))
    assert protected("local", inner).evaluate(site(), asked()) == inner.evaluate(site(), asked())


def test_a_hospital_pays_from_its_patients_budget_and_tells_nothing_exact() -> None:
    ledger = PrivacyLedger(None, site="bern", budget=Budget(15.0, DELTA), trail=AuditTrail(None))
    data = DataSet.of("bern", hash_patients([str(n) for n in range(50)], bytes(32)), bytes(32))
    account = SiteAccount(ledger, data, study="heart")
    inner = Fixed(step(9, 0, 0))
    trainer = ProtectedTrainer(inner, noise("local"), account, is_simulated=False)
    here = site()
    report = trainer.train(here, asked(1)).report["privacy"]
    assert "clipped" not in report
    sigma = noise("local").noise_multiplier
    assert ledger.spent_on(data) == (Segment(sigma, 1.0, 1),)
    trainer.train(here, asked(2))
    with pytest.raises(RefusedError, match="privacy"):
        trainer.train(here, asked(3))  # of four; the site's 15 end before the run's 20
    assert inner.trained == 2
