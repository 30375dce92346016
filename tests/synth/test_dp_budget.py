"""What Gaussian noise costs: against two other libraries, by integration, and at the limits."""

import json
import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from scipy.integrate import quad

from fedward.common.errors import ConfigError
from fedward.synth.tables.dp_budget import (
    claim_of,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
)
from fedward.synth.tables.dp_release import SHARES

EPSILONS = [0.1, 0.5, 1.0, 3.0, 8.0, 20.0]
DELTAS = [1e-4, 1e-5, 1e-8]
GRID = [(epsilon, delta) for epsilon in EPSILONS for delta in DELTAS]


@pytest.mark.parametrize(("epsilon", "delta"), GRID)
def test_epsilon_is_that_of_dp_accounting_for_one_query(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert dp_accounting.get_epsilon_gaussian(1 / mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_epsilon_is_that_of_dp_accounting_for_four_queries_within_half_a_percent(
    epsilon: float,
) -> None:
    # By privacy loss distributions that are put together, with the shares of the copula.
    mu = gaussian_mu(epsilon, 1e-5)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for share in SHARES.values():
        accountant.compose(dp_accounting.GaussianDpEvent(1 / (mu * math.sqrt(share))))
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, rel=0.005)


# Opacus takes the logarithm of 0 where a density ends.
@pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")
@pytest.mark.parametrize("epsilon", [1.0, 3.0, 8.0])
def test_epsilon_is_that_of_opacus_within_half_a_percent(epsilon: float) -> None:
    accountant = PRVAccountant()
    accountant.history = [(1 / gaussian_mu(epsilon, 1e-5), 1.0, 1)]
    # It adds its own error to what it returns.
    assert accountant.get_epsilon(delta=1e-5, eps_error=0.002) == pytest.approx(epsilon, rel=0.005)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.3, 0.5), (1.0, 2.0), (2.0, 8.0)])
def test_delta_is_the_part_of_the_density_above_e_to_the_epsilon(mu: float, epsilon: float) -> None:
    def excess(x: float) -> float:
        own = math.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
        other = math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        return max(0.0, own - math.exp(epsilon) * other)

    start = epsilon / mu + mu / 2  # where the two meet
    integral = quad(excess, start, start + 12, epsabs=1e-14)[0]
    assert gaussian_delta(mu, epsilon) == pytest.approx(integral, rel=1e-6)


def test_noise_that_hides_everything_costs_nothing() -> None:
    assert gaussian_epsilon(1e-6, 1e-5) == 0
    assert gaussian_delta(1e-6, 0.0) == pytest.approx(1e-6 / math.sqrt(2 * math.pi), rel=1e-3)


def test_the_promise_is_never_larger_than_it_was_asked_for() -> None:
    for epsilon, delta in GRID:
        assert gaussian_epsilon(gaussian_mu(epsilon, delta), delta) <= epsilon


@pytest.mark.parametrize("epsilon", [1e-4, 100.0, 1000.0])
def test_the_smallest_and_the_largest_budgets_have_noise(epsilon: float) -> None:
    assert gaussian_epsilon(gaussian_mu(epsilon, 1e-6), 1e-6) == pytest.approx(epsilon, rel=1e-5)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)]
)
def test_budgets_that_promise_nothing_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigError):
        gaussian_mu(epsilon, delta)


def test_a_claim_says_what_it_is_about_and_what_it_is_not() -> None:
    claim = claim_of(2.0, 1e-6, {"margins": 0.3, "means": 0.4}, is_seeded=False)
    assert "together mu = 0.5" in claim.composition
    assert not claim.is_reproducible
    assert any("budgets add up" in one for one in claim.not_covered)
    assert json.loads(json.dumps(claim.to_dict()))["epsilon"] == 2.0
    seeded = claim_of(2.0, 1e-6, {"margins": 0.3}, is_seeded=True)
    assert seeded.is_reproducible
    assert "seed" in seeded.noise
