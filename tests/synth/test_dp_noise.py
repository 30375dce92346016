"""The noise is what it is said to be, and a contribution is never longer than it is said to be."""

import math
import secrets

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from fedward.synth.tables.dp_noise import (
    STEPS,
    clipped,
    discrete_gaussian,
    noisy_sums,
    source_of,
)


@pytest.mark.parametrize("deviation", [1, 3])
def test_few_steps_have_the_probabilities_of_the_discrete_gaussian(deviation: int) -> None:
    drawn = discrete_gaussian(20_000, deviation=deviation, below=source_of(3))
    value = np.arange(-4 * deviation, 4 * deviation + 1)
    weight = np.exp(-(value**2) / (2 * deviation**2))
    inside = drawn[np.abs(drawn) <= value[-1]]
    count = np.array([(inside == one).sum() for one in value])
    assert len(inside) > 0.99 * len(drawn)
    assert chisquare(count, weight / weight.sum() * len(inside)).pvalue > 1e-4


@pytest.mark.parametrize("seed", [None, 1])
def test_many_steps_are_normal(seed: int | None) -> None:
    drawn = discrete_gaussian(5000, deviation=STEPS, below=source_of(seed)) / STEPS
    assert kstest(drawn, "norm").pvalue > 1e-4


def test_noise_is_never_the_same_unless_a_seed_is_asked_for() -> None:
    def drawn(seed: int | None) -> list[int]:
        return [int(one) for one in discrete_gaussian(4, deviation=STEPS, below=source_of(seed))]

    assert drawn(None) != drawn(None)
    assert drawn(7) == drawn(7) != drawn(8)


def test_noise_comes_from_the_operating_system() -> None:
    assert source_of(None) is secrets.randbelow


def sums(block: np.ndarray, **changed: float) -> np.ndarray:
    setting = {"bound": 1.0, "deviation": 0.5, **changed}
    return noisy_sums([block], block.shape[1], below=source_of(5), **setting)


def test_the_sums_are_those_of_the_contributions_and_noise_of_the_given_size() -> None:
    block = np.random.default_rng(0).uniform(0, 0.5, (300, 2000)) / math.sqrt(2000)
    found = sums(block)
    noise = (found - block.sum(axis=0)) / 0.5
    assert kstest(noise, "norm").pvalue > 1e-4
    assert not np.allclose(found, block.sum(axis=0), atol=0.1)


def test_a_long_contribution_counts_as_much_as_the_bound_allows() -> None:
    # The same seed, so that the noise cancels.
    empty = sums(np.zeros((1, 2)))
    moved = sums(np.array([[300.0, -400.0]])) - empty
    assert moved == pytest.approx([0.6, -0.8], abs=1e-8)


def test_whatever_a_patient_has_moves_the_whole_numbers_by_no_more_than_the_bound() -> None:
    rng = np.random.default_rng(1)
    block = rng.standard_normal((2000, 40)) * np.exp(rng.normal(0, 8, (2000, 1)))
    scale = STEPS / 0.37
    steps = np.trunc(clipped(block, 1.3) * scale).astype(np.int64)
    most = (1.3 * scale) ** 2
    for row in steps:
        assert sum(int(one) ** 2 for one in row) <= most  # in whole numbers of any size


def test_noise_moves_in_steps_so_that_it_hides_the_last_digits() -> None:
    # Floating-point noise on 0.1 and on 0.3 would land on different numbers.
    for value in (0.1, 0.3):
        found = sums(np.array([[value, 0.0]])) / 0.5 * STEPS
        assert found.tolist() == np.rint(found).tolist()


def test_the_order_of_the_patients_does_not_show() -> None:
    block = np.random.default_rng(2).uniform(size=(500, 3))
    assert sums(block).tolist() == sums(block[::-1]).tolist()


def test_no_patients_are_noise_as_well() -> None:
    assert (sums(np.zeros((0, 3))) != 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_contributions_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        sums(np.array([[value, 0.0]]))


def test_sums_that_could_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="overflow"):
        sums(np.ones((4, 1)), deviation=1e-9)
