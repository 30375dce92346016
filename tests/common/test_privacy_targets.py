"""Noise from a budget, and the warning that noise drowns what is to be learnt."""

import math
import warnings
from typing import Any

import pytest
from opacus.accountants.utils import get_noise_multiplier

from fedward.common.errors import ConfigError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.checks import check_delta
from fedward.common.privacy.targets import Target, drowning, noise_for

DELTA = 1e-5


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.12, 0.01, 50), (1.0, 0.1, 300), (8.0, 0.5, 100), (3, 1.0, 20)]
)
def test_the_noise_is_enough_and_a_little_less_is_not(
    epsilon: float, rate: float, steps: int
) -> None:
    noise = noise_for(epsilon, DELTA, sample_rate=rate, num_steps=steps)
    assert epsilon_of([Segment(noise, rate, steps)], DELTA) <= epsilon
    assert epsilon_of([Segment(noise * 0.999, rate, steps)], DELTA) > epsilon
    assert noise == float(f"{noise:.4g}")


def test_the_noise_is_that_of_opacus_where_its_orders_are_enough() -> None:
    with warnings.catch_warnings(action="ignore"):  # its search begins at orders that it warns of
        theirs = get_noise_multiplier(
            target_epsilon=3.0,
            target_delta=DELTA,
            sample_rate=0.05,
            steps=500,
            accountant="rdp",
            epsilon_tolerance=0.001,
        )
    ours = noise_for(3.0, DELTA, sample_rate=0.05, num_steps=500)
    assert ours == pytest.approx(theirs, rel=0.002)


def test_a_larger_budget_needs_less_noise_down_to_hardly_any() -> None:
    noises = [noise_for(e, DELTA, sample_rate=1.0, num_steps=1) for e in (0.5, 5.0, 50.0, 500.0)]
    assert noises == sorted(noises, reverse=True)
    assert noises[-1] < 0.05


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(ConfigError, match="plan fewer rounds"):
        noise_for(0.001, 1e-6, sample_rate=1.0, num_steps=10**9)


def test_a_target_counts_all_of_its_rounds() -> None:
    target = Target(delta=DELTA, rounds=20, epsilon=3.0)
    noise = target.noise_at(0.1, 10, num_patients=500)
    assert epsilon_of([Segment(noise, 0.1, 200)], DELTA) == pytest.approx(3.0, rel=0.002)
    once = Target(delta=DELTA, rounds=1, epsilon=3.0).noise_at(0.1, 10, num_patients=500)
    assert epsilon_of([Segment(once, 0.1, 200)], DELTA) > 2 * 3.0


def test_noise_that_is_given_is_taken() -> None:
    target = Target(delta=DELTA, rounds=20, noise_multiplier=1.25)
    assert target.noise_at(0.1, 10, num_patients=500) == 1.25


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"epsilon": 0.0}, "epsilon: given 0"),
        ({"epsilon": -1.0}, "epsilon: given -1"),
        ({"epsilon": math.nan}, "epsilon: given nan"),
        ({"epsilon": math.inf}, "epsilon: given inf"),
        ({"noise_multiplier": math.nan}, "noise multiplier: given nan"),
        ({"noise_multiplier": math.inf}, "noise multiplier: given inf"),
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "exactly one"),
        ({}, "exactly one"),
        ({"epsilon": 1.0, "rounds": None}, "planned rounds: not given"),
        ({"epsilon": 1.0, "rounds": 0}, "planned rounds: given 0"),
        ({"epsilon": 1.0, "rounds": -5}, "planned rounds: given -5"),
        ({"epsilon": 1.0, "delta": None}, "delta: given nothing"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta: given 1"),
    ],
)
def test_a_target_that_means_nothing_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Target(**{"delta": DELTA, "rounds": 5} | fields)


def test_delta_must_be_below_one_over_the_patients() -> None:
    assert check_delta(0.001, 999) == 0.001
    for num_patients in (1000, 5000):
        with pytest.raises(ConfigError, match=f"below one over the {num_patients} patients"):
            check_delta(0.001, num_patients)
    with pytest.raises(ConfigError, match="below one over"):
        Target(delta=0.01, rounds=1, epsilon=1.0).noise_at(0.5, 10, num_patients=100)


def warned(*, num_patients: int, num_parameters: int, noise: float = 1.0) -> str | None:
    return drowning(
        noise,
        num_patients=num_patients,
        patients_per_step=32,
        num_steps=400,
        num_parameters=num_parameters,
    )


def test_a_small_site_and_a_large_network_are_warned_of_and_told_what_helps() -> None:
    small = warned(num_patients=80, num_parameters=20)
    assert small is not None
    assert "only 80 patients" in small
    assert "head" in small
    large = warned(num_patients=5000, num_parameters=2_000_000)
    assert large is not None
    assert "0.45 times" in large  # 32 * sqrt(400) / sqrt(2e6)
    assert warned(num_patients=5000, num_parameters=3000) is None
