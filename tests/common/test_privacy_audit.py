"""Lower bounds on epsilon from guesses: by hand, against simulation, and for mechanisms we know."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedward.common.privacy.audit import (
    bound_from_scores,
    epsilon_lower_bound,
    refutation_p_value,
)


def test_without_delta_the_p_value_is_the_tail_of_randomised_response() -> None:
    # Randomised response with epsilon log 3 is right three times of four.
    found = refutation_p_value(9, 10, num_canaries=50, epsilon=math.log(3), delta=0)
    by_hand = 10 * 0.75**9 * 0.25 + 0.75**10
    assert found == pytest.approx(by_hand)


def test_delta_adds_what_the_theorem_says() -> None:
    # m = r = v = 2, q = 1/2: i = 1 gives P[B = 1] = 1/2, i = 2 gives (1/2 + 1/4) / 2 = 3/8.
    found = refutation_p_value(2, 2, num_canaries=2, epsilon=0.0, delta=0.01)
    assert found == pytest.approx(0.25 + 2 * 2 * 0.01 * 0.5)


@pytest.mark.parametrize("delta", [0.0, 1e-6])
def test_more_right_guesses_refute_more(delta: float) -> None:
    bounds = [
        epsilon_lower_bound(right, 100, num_canaries=500, delta=delta).epsilon_low
        for right in (50, 60, 75, 90, 100)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert bounds[-1] > 2


def test_a_delta_that_allows_to_publish_canaries_leaves_nothing_to_refute() -> None:
    bound = epsilon_lower_bound(100, 100, num_canaries=500, delta=0.01)
    assert bound.epsilon_low == 0


def test_only_right_guesses_refute_as_much_as_can_be() -> None:
    # q^60 = 0.05 at the bound.
    right = 0.05 ** (1 / 60)
    bound = epsilon_lower_bound(60, 60, num_canaries=60, delta=0)
    assert bound.epsilon_low == pytest.approx(math.log(right / (1 - right)), abs=1e-9)


@pytest.mark.parametrize("num_correct", [55, 70, 93])
def test_the_bound_is_where_the_p_value_reaches_what_is_allowed(num_correct: int) -> None:
    bound = epsilon_lower_bound(num_correct, 100, num_canaries=200, delta=1e-5, confidence=0.9)
    if num_correct == 55:
        assert bound.epsilon_low == 0  # P[B >= 55] is 0.18 for coins
        return
    at = refutation_p_value(
        num_correct, 100, num_canaries=200, epsilon=bound.epsilon_low, delta=1e-5
    )
    assert at == pytest.approx(0.1, rel=1e-6)


def test_randomised_response_is_seldom_refuted_and_nearly_reached() -> None:
    # The audit's own worst case: every answer is right with e^eps / (1 + e^eps).
    epsilon, rng = 2.0, np.random.default_rng(5)
    rights = rng.binomial(200, 1 / (1 + math.exp(-epsilon)), 400)
    bound_of = {
        right: epsilon_lower_bound(int(right), 200, num_canaries=200, delta=0).epsilon_low
        for right in set(rights.tolist())
    }
    bounds = np.array([bound_of[right] for right in rights.tolist()])
    # 5 % of 400 at most; more than 36 would come up with probability 1e-4.
    assert (bounds > epsilon).sum() <= binom.ppf(1 - 1e-4, 400, 0.05)
    assert np.median(bounds) > 1.5


def gaussian_scores(mu: float, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_member = rng.random(size) < 0.5
    return is_member * mu + rng.standard_normal(size), is_member


@pytest.mark.parametrize(("mu", "epsilon"), [(0.268, 1.0), (1.106, 5.0), (1.993, 10.0)])
def test_noisy_scores_never_refute_what_their_noise_promises(mu: float, epsilon: float) -> None:
    for seed in range(3):
        score, is_member = gaussian_scores(mu, 1000, seed)
        bound = bound_from_scores(score, is_member, num_guesses=100, delta=1e-5)
        assert bound.epsilon_low <= epsilon


def test_too_little_noise_is_found_out() -> None:
    score, is_member = gaussian_scores(4 * 1.106, 1000, 1)
    bound = bound_from_scores(score, is_member, num_guesses=400, delta=1e-5)
    assert bound.epsilon_low > 4
    score, is_member = gaussian_scores(1e9, 1000, 1)
    assert bound_from_scores(score, is_member, num_guesses=400, delta=1e-5).epsilon_low > 4.8


def test_scores_that_say_nothing_refute_nothing() -> None:
    # Each of 20 audits may err with 5 %; 6 errors would come up with probability 3e-4.
    bounds = []
    for seed in range(20):
        score, is_member = gaussian_scores(0.0, 500, seed)
        bounds.append(bound_from_scores(score, is_member, num_guesses=100, delta=1e-5).epsilon_low)
    assert sum(bound > 0 for bound in bounds) < 6


def test_half_of_the_guesses_say_in_and_half_say_out() -> None:
    score = np.array([0.1, 0.9, 0.5, 0.4, 0.8, 0.2])
    is_member = np.array([False, True, False, True, False, True])
    # Highest two: 0.9 right, 0.8 wrong. Lowest two: 0.1 right, 0.2 wrong.
    bound = bound_from_scores(score, is_member, num_guesses=4, delta=0)
    assert (bound.num_correct, bound.num_guesses, bound.num_canaries) == (2, 4, 6)


@pytest.mark.parametrize("num_guesses", [0, 3, 8])
def test_guesses_are_even_and_no_more_than_the_canaries(num_guesses: int) -> None:
    with pytest.raises(ValueError, match="num_guesses"):
        bound_from_scores(np.zeros(6), np.zeros(6, dtype=bool), num_guesses=num_guesses, delta=0)


def test_scores_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        bound_from_scores(np.array([0, np.nan]), np.array([True, False]), num_guesses=2, delta=0)


@pytest.mark.parametrize(("right", "guesses", "canaries"), [(5, 4, 9), (1, 9, 4), (0, 0, 4)])
def test_impossible_counts_are_refused(right: int, guesses: int, canaries: int) -> None:
    with pytest.raises(ValueError, match="canaries"):
        epsilon_lower_bound(right, guesses, num_canaries=canaries, delta=0)
