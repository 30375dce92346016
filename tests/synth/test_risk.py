"""Figures of risk by hand, and whether their intervals cover as often as they say."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedward.common.intervals import wilson
from fedward.synth.evaluation.risk import (
    Rates,
    Risk,
    auc_risk,
    mean_risk,
    rate,
    residual_risk,
    tpr_risk,
)

DRAWS = 1000
MISSED = 79
"""Of 1000 intervals at 95 %, more than 79 miss with a probability of 3e-5."""


def rates(attack: int, control: int, n: int, naive: int = 0) -> Rates:
    return Rates(rate(attack, n), rate(naive, n), rate(control, n))


def test_the_residual_risk_is_what_remains_of_success_against_members() -> None:
    # 60 % and 20 %: of the 80 % who resist without training, half have fallen.
    risk = residual_risk("linkability", "all", rates(60, 20, 100))
    assert risk.value == pytest.approx(0.5)
    assert risk.num_attacks == 100
    assert risk.is_leak


def test_an_attack_that_always_succeeds_against_members_alone_is_a_risk_of_one() -> None:
    risk = residual_risk("linkability", "all", rates(100, 0, 100))
    assert (risk.value, risk.high) == (1.0, 1.0)
    # Wilson's interval of 100 of 100.
    assert risk.low == pytest.approx(wilson(100, 100)[0], abs=0.005)


def test_success_against_everybody_alike_is_no_risk() -> None:
    risk = residual_risk("inference", "all", rates(90, 90, 100))
    assert (risk.value, risk.low) == (0.0, 0.0)
    assert not risk.is_leak


def test_an_attack_that_nobody_resists_measures_nothing() -> None:
    risk = residual_risk("inference", "all", rates(100, 100, 100))
    assert risk.value is None
    assert risk.reason is not None
    assert "always succeeds" in risk.reason


def test_an_attack_that_is_no_better_than_guessing_says_so() -> None:
    strong = residual_risk("inference", "all", rates(60, 20, 100, naive=30))
    weak = residual_risk("inference", "all", rates(60, 20, 100, naive=60))
    assert strong.caution is None
    assert weak.caution is not None
    assert "guessing" in weak.caution


@pytest.mark.parametrize(
    ("attack", "control", "n"), [(0.6, 0.3, 400), (0.97, 0.8, 150), (0.1, 0.1, 1000)]
)
def test_intervals_of_the_residual_risk_cover(attack: float, control: float, n: int) -> None:
    truth = (attack - control) / (1 - control)
    rng = np.random.default_rng(1)
    missed = 0
    for a, c in zip(rng.binomial(n, attack, DRAWS), rng.binomial(n, control, DRAWS), strict=True):
        risk = residual_risk("x", "all", rates(int(a), int(c), n))
        assert risk.low is not None
        assert risk.high is not None
        missed += not risk.low <= truth <= risk.high
    assert missed <= MISSED


def test_recognising_at_one_false_alarm_in_a_hundred_by_hand() -> None:
    other = np.arange(200.0)  # two of 200 are allowed above the threshold: it is 197
    member = np.concatenate([np.full(30, 196.5), np.full(10, 198.5)])
    risk = tpr_risk("x", "all", member, other)
    assert risk.value == pytest.approx(0.25)
    assert risk.baseline == 0.01


def test_a_tie_with_the_threshold_is_not_recognised() -> None:
    risk = tpr_risk("x", "all", np.zeros(50), np.zeros(200))
    assert risk.value == 0.0


@pytest.mark.parametrize("num_others", [150, 1000])
def test_intervals_of_the_true_positive_rate_cover(num_others: int) -> None:
    draws, shift = 300, 1.5
    truth = 1 - norm.cdf(norm.ppf(0.99) - shift)
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(draws):
        member, other = rng.normal(shift, 1, 300), rng.normal(size=num_others)
        risk = tpr_risk("x", "all", member, other)
        assert risk.low is not None
        assert risk.high is not None
        missed += not risk.low <= truth <= risk.high
    assert missed <= 31  # passed with 0.05 per interval but for a probability of 6e-5


def test_with_many_others_the_rate_is_told_from_chance() -> None:
    rng = np.random.default_rng(3)
    other = rng.normal(size=2000)
    assert tpr_risk("x", "all", rng.normal(2, 1, 500), other).is_leak
    assert not tpr_risk("x", "all", rng.normal(size=500), other).is_leak


def test_too_few_patients_have_no_figure_and_a_reason() -> None:
    few, many = np.arange(19.0), np.arange(99.0)
    for risk in (auc_risk("x", "a", few, many), auc_risk("x", "a", many, few)):
        assert (risk.value, risk.low, risk.high) == (None, None, None)
        assert risk.reason is not None
        assert "19" in risk.reason
    assert tpr_risk("x", "a", many, many).reason is not None  # 1 % of 99 is nobody


def test_the_mean_over_classes_weighs_members_and_names_who_is_left_out() -> None:
    classes = [
        Risk("x", "a", 0.6, 0.5, 0.7, 0.5, 300),
        Risk("x", "b", 0.8, 0.6, 0.9, 0.5, 100),
        Risk("x", "c", None, None, None, 0.5, 12, reason="12 members"),
    ]
    mean = mean_risk(classes)
    assert mean.value == pytest.approx(0.65)
    assert mean.low == pytest.approx(0.65 - math.hypot(0.75 * 0.1, 0.25 * 0.2))
    assert mean.high == pytest.approx(0.65 + math.hypot(0.75 * 0.1, 0.25 * 0.1))
    assert mean.num_attacks == 400
    assert mean.caution is not None
    assert "c (12 members)" in mean.caution
    assert mean_risk(classes[2:]).reason == "12 members"
