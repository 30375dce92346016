"""How private a mechanism is at most: a lower bound on epsilon from guesses in one run.

The auditor flips a fair coin for each of m canaries, gives the mechanism those that came up heads,
sees what it releases, and guesses the coins of r canaries, the others are left out. Under
(epsilon, delta)-differential privacy guesses are seldom right more often than randomised response
would be; more right guesses refute that epsilon.

Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, Theorem 5.2 and appendix D. The
neighbourhood is that of adding or removing one canary.

A lower bound never proves privacy: it refutes a claim that is too good, such as that of a
mechanism whose noise is too small. How near it comes to the truth depends on the attack.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
MAX_EPSILON = 1000.0


@dataclass(frozen=True)
class EpsilonBound:
    """What the guesses say of epsilon."""

    epsilon_low: float
    """Smaller values are refuted; 0 where nothing is."""
    delta: float
    confidence: float
    """Probability that a mechanism which is private as claimed gets no larger bound."""
    num_correct: int
    num_guesses: int
    num_canaries: int


def refutation_p_value(
    num_correct: int, num_guesses: int, *, num_canaries: int, epsilon: float, delta: float
) -> float:
    """Return the most probable that so many right guesses are under (epsilon, delta)-DP.

    With W the right guesses, B binomial of r guesses that are right with e^eps / (1 + e^eps):

        P[W >= v] <= P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i,     i = 1..m

    Args:
        num_correct: v, of the guesses.
        num_guesses: r, fixed before the guesses are seen.
        num_canaries: m >= r.
        epsilon: >= 0.
        delta: 0 to 1.

    Source: Steinke et al. 2023, Theorem 5.2.
    """
    _check(num_correct, num_guesses, num_canaries, delta)
    right = 1 / (1 + np.exp(-epsilon))
    tail = float(binom.sf(num_correct - 1, num_guesses, right))
    if delta == 0 or num_correct == 0:
        return min(1.0, tail)
    # For i > v the sum below grows no more, and its share falls.
    below = np.cumsum(binom.pmf(np.arange(num_correct - 1, -1, -1), num_guesses, right))
    worst = float((below / np.arange(1, num_correct + 1)).max())
    return min(1.0, tail + 2 * num_canaries * delta * worst)


def epsilon_lower_bound(
    num_correct: int,
    num_guesses: int,
    *,
    num_canaries: int,
    delta: float,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Return the largest epsilon that so many right guesses refute; see `refutation_p_value`."""
    _check(num_correct, num_guesses, num_canaries, delta)
    allowed = 1 - confidence

    def is_refuted(epsilon: float) -> bool:
        p_value = refutation_p_value(
            num_correct, num_guesses, num_canaries=num_canaries, epsilon=epsilon, delta=delta
        )
        return p_value < allowed

    low, high = 0.0, 1.0
    # The p-value grows with epsilon; bisection keeps `low` refuted, so that rounding errs low.
    while high < MAX_EPSILON and is_refuted(high):
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return EpsilonBound(low, delta, confidence, num_correct, num_guesses, num_canaries)


def bound_from_scores(
    score_M: Floats,
    is_member_M: Bools,
    *,
    num_guesses: int,
    delta: float,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Return the bound of an auditor who guesses where its scores are most extreme.

    Half of the guesses say "in", for the highest scores, half "out", for the lowest.

    Args:
        score_M: (M,) finite, higher for canaries that seem to be in.
        is_member_M: (M,) the coins.
        num_guesses: even, at most M; fixed before the scores are seen.
        delta: of the claim.
        confidence: of the bound.

    Source: Steinke et al. 2023, Algorithm 1.
    """
    if num_guesses % 2 or not 0 < num_guesses <= len(score_M):
        raise ValueError(f"num_guesses: given {num_guesses}, expected even, 2 to {len(score_M)}")
    if score_M.shape != is_member_M.shape or not np.isfinite(score_M).all():
        raise ValueError("scores and coins must both be (M,), and scores finite")
    order, half = np.argsort(score_M, kind="stable"), num_guesses // 2
    correct = int((~is_member_M[order[:half]]).sum() + is_member_M[order[-half:]].sum())
    return epsilon_lower_bound(
        correct, num_guesses, num_canaries=len(score_M), delta=delta, confidence=confidence
    )


def _check(num_correct: int, num_guesses: int, num_canaries: int, delta: float) -> None:
    if not 0 <= num_correct <= num_guesses <= num_canaries or num_guesses == 0:
        raise ValueError(
            f"audit: {num_correct} right of {num_guesses} guesses on {num_canaries} canaries"
        )
    if not 0 <= delta <= 1:
        raise ValueError("audit: delta must be within [0, 1]")
