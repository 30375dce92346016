"""The audit of the private copula: it stays below the claim, and faults that are planted show."""

from collections.abc import Iterable

import numpy as np
import pytest

from fedward.synth.evaluation.audit import audit_copula
from fedward.synth.tables import dp_noise
from fedward.synth.tables.dp_noise import Below, Floats, Ints, discrete_gaussian, noisy_sums

DELTA = 1e-5


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("epsilon", [1.0, 5.0, 10.0])
def test_what_the_attacker_gets_right_stays_below_the_claim(epsilon: float, seed: int) -> None:
    audit = audit_copula(epsilon, DELTA, seed=seed)
    assert audit.claimed == epsilon
    assert audit.bound.epsilon_low <= epsilon
    assert not audit.is_refuted


def less_noise(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    def weak(size: int, *, deviation: int, below: Below) -> Ints:
        noise = discrete_gaussian(size, deviation=deviation, below=below)
        less: Ints = np.rint(share * noise).astype(np.int64)
        return less

    monkeypatch.setattr(dp_noise, "discrete_gaussian", weak)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_without_noise_nearly_every_canary_is_recognised(
    epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    less_noise(monkeypatch, 0.0)
    audit = audit_copula(epsilon, DELTA, seed=0)
    assert audit.bound.epsilon_low > 2.5
    assert audit.is_refuted


def test_a_tenth_of_the_noise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    less_noise(monkeypatch, 0.1)
    assert audit_copula(1.0, DELTA, seed=0).is_refuted


def test_a_sensitivity_that_forgets_the_number_of_columns_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(
        blocks: Iterable[Floats], size: int, *, bound: float, deviation: float, below: Below
    ) -> Floats:
        # Noise as if each patient added a vector of length 1; nothing is clipped to that.
        return noisy_sums(blocks, size, bound=bound, deviation=deviation / bound, below=below)

    monkeypatch.setattr("fedward.synth.tables.dp_queries.noisy_sums", forgetful)
    assert audit_copula(1.0, DELTA, seed=0).is_refuted


def test_a_mechanism_that_learns_from_nobody_is_never_refuted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(_block: Floats, _bound: float) -> Floats:
        return np.zeros_like(_block)

    monkeypatch.setattr(dp_noise, "clipped", blind)
    assert not audit_copula(0.5, DELTA, seed=0).is_refuted


def test_a_claim_above_what_the_guesses_can_show_is_not_refuted_even_without_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All 80 guesses right: q^80 = 0.05, log(q / (1 - q)) = 3.27, a little less with delta.
    less_noise(monkeypatch, 0.0)
    audit = audit_copula(5.0, DELTA, seed=0)
    assert audit.bound.num_correct == audit.bound.num_guesses == 80
    assert 3.2 < audit.bound.epsilon_low < 3.27
    assert not audit.is_refuted


@pytest.mark.slow
def test_bounds_grow_with_the_budget() -> None:
    # Means of ten audits; their standard error is below 0.25.
    mean = [
        np.mean([audit_copula(eps, DELTA, seed=seed).bound.epsilon_low for seed in range(10)])
        for eps in (1.0, 5.0, 10.0, 30.0)
    ]
    assert np.diff(mean).min() > 0
    assert mean[-1] > 2.5
