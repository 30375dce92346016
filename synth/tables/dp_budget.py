"""What Gaussian noise costs in (epsilon, delta), exactly, and the claim that goes with a release.

A Gaussian mechanism of noise multiplier s is mu-Gaussian-private with mu = 1/s; several of them,
each chosen after the others were seen, are so with mu^2 = sum of their mu^2 (Dong, Roth and Su
2022, JRSS B 84:3-37, Corollary 3.3). Such a mechanism is (epsilon, delta)-private exactly if

    delta >= Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

(Balle and Wang 2018, arXiv:1805.06530, Theorem 8). Nobody is sampled and nothing is iterated, so
no numerical accountant is needed; those of dp-accounting and Opacus find the same (see the tests).
"""

import math
from collections.abc import Mapping

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedward.common.privacy.checks import check_delta, check_epsilon
from fedward.common.privacy.claim import PrivacyClaim

UNIT = "one row of the training table, which must be one patient"
NEIGHBOURHOOD = "two tables of which one has one patient more (add or remove one)"
NOT_COVERED = (
    "other releases about the same patients, further fits among them: their budgets add up",
    "patients with several rows: the promise is made per row",
    "names, kinds, decimals, categories and classes of the columns, and bounds that were not paid "
    "for: they are taken as public knowledge",
    "what holds for a population: the rows may tell it, also of patients who are not in the table",
    "an error message in place of a release, and how long the fit took",
)


def claim_of(
    epsilon: float, delta: float, mu_of: Mapping[str, float], *, is_seeded: bool
) -> PrivacyClaim:
    """Return the claim of Gaussian sums over all patients of a table.

    Args:
        epsilon: of all queries together.
        delta: of all queries together.
        mu_of: each query's Gaussian privacy, by its name.
        is_seeded: whether the noise can be repeated.
    """
    total = math.sqrt(math.fsum(mu**2 for mu in mu_of.values()))
    parts = ", ".join(f"{name} {mu:.4g}" for name, mu in mu_of.items())
    return PrivacyClaim(
        epsilon=epsilon,
        delta=delta,
        unit=UNIT,
        neighbourhood=NEIGHBOURHOOD,
        mechanism="Gaussian mechanism: sums of clipped contributions in whole numbers, with "
        "discrete Gaussian noise",
        sampling="every patient takes part; nothing is gained from sampling patients",
        composition=f"mu-Gaussian privacy of each query: {parts}; together mu = {total:.4g}, "
        "converted to (epsilon, delta) exactly",
        noise="follows from a seed: whoever knows it can take the noise off again"
        if is_seeded
        else "from the operating system's cryptographic source",
        is_reproducible=is_seeded,
        not_covered=NOT_COVERED,
    )


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the smallest delta at which mu-Gaussian privacy is (epsilon, delta)-DP.

    Args:
        mu: > 0, sensitivity over standard deviation.
        epsilon: >= 0.
    """
    gain = math.exp(log_ndtr(mu / 2 - epsilon / mu))
    return max(0.0, gain - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon at which mu-Gaussian privacy is (epsilon, delta)-DP.

    Args:
        mu: > 0.
        delta: > 0 and < 1.
    """
    if 2 * ndtr(mu / 2) - 1 <= delta:
        return 0.0
    # delta <= Phi(mu/2 - epsilon/mu), which is below 1e-300 from here on.
    high = mu**2 / 2 + 40 * mu
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, high, rtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest mu whose Gaussian privacy is (epsilon, delta)-DP.

    Raises:
        ConfigError: epsilon or delta is out of range.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    high = 1.0
    while gaussian_delta(high, epsilon) < delta:
        high *= 2
    low = high
    while gaussian_delta(low, epsilon) > delta:
        low /= 2
    found = float(brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, low, high, rtol=1e-12))
    # Rounding must not make the promise larger than it was asked for.
    return found * (1 - 1e-9)
