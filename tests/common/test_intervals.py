"""Means and differences with intervals, against scipy and repeated sampling."""

import math

import numpy as np
import pytest
from scipy import stats

from fedward.common.intervals import (
    difference,
    mean_interval,
    paired_interval,
    site_mean,
    wilson,
)
from fedward.common.task import Metric


def test_a_mean_has_students_interval() -> None:
    values = [0.61, 0.68, 0.7, 0.66, 0.73]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    measured = mean_interval(values)
    assert (measured.low, measured.high) == pytest.approx((expected.low, expected.high))
    assert measured.value == pytest.approx(0.676)
    assert measured.n == 5


def test_a_paired_interval_is_that_of_the_paired_t_test() -> None:
    a, b = [0.7, 0.72, 0.69, 0.75], [0.65, 0.7, 0.68, 0.69]
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    measured = paired_interval(a, b)
    assert (measured.low, measured.high) == pytest.approx((expected.low, expected.high))


def test_a_pair_that_lacks_one_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_interval([1.0, 2.0], [1.0])


def test_one_value_has_no_interval_and_none_has_a_reason() -> None:
    assert mean_interval([0.5]) == Metric(0.5, n=1)
    assert mean_interval([]) == Metric(None, n=0, reason="no values")


def test_wilson_equals_scipy() -> None:
    for successes, n in [(0, 10), (3, 16), (16, 16), (81, 263)]:
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_mean_of_sites_counts_each_site_once() -> None:
    large = Metric(0.9, 0.88, 0.92, n=2000)
    small = Metric(0.7, 0.6, 0.8, n=20)
    mean = site_mean([large, small, Metric(None, n=16, reason="one class")])
    # By hand: sqrt(.02^2 + .1^2) / 2 = 0.05099.
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.8, 0.74901, 0.85099), abs=1e-5)
    assert mean.n == 2020


def test_the_mean_of_sites_keeps_a_lopsided_interval_lopsided() -> None:
    mean = site_mean([Metric(1.0, 0.8, 1.0, n=10)] * 4)
    assert (mean.low, mean.high) == pytest.approx((0.9, 1.0))


def test_the_mean_of_sites_says_why_it_is_undefined() -> None:
    assert site_mean([Metric(None, reason="one class")]).reason == "undefined at every site"
    assert site_mean([]).reason == "no sites"
    assert site_mean([Metric(0.5, n=1), Metric(0.7, 0.6, 0.8, n=9)]) == Metric(0.6, n=10)


def test_a_difference_by_hand() -> None:
    gain = difference(Metric(0.8, 0.7, 0.84, n=50), Metric(0.7, 0.67, 0.75, n=60))
    # MOVER: low = .1 - sqrt(.1^2 + .05^2), high = .1 + sqrt(.04^2 + .03^2).
    assert gain.low == pytest.approx(0.1 - math.hypot(0.1, 0.05))
    assert gain.high == pytest.approx(0.15)
    assert gain.n == 50


def test_a_difference_with_an_undefined_figure_is_undefined() -> None:
    undefined = Metric(None, n=16, reason="one class")
    assert difference(Metric(0.8, 0.7, 0.9, n=16), undefined) == undefined
    assert difference(Metric(0.8), Metric(0.7, 0.6, 0.8, n=3)).low is None


def test_the_mean_of_sites_covers_at_its_stated_rate() -> None:
    # Three sites with accuracies by Wilson. A true 95 % leaves 93-97.5 % of 3,000 draws with
    # probability below 1e-6.
    generator = np.random.default_rng(5)
    truth, sizes = np.array([0.6, 0.8, 0.93]), np.array([40, 100, 30])
    inside = []
    for successes in generator.binomial(sizes, truth, size=(3000, 3)):
        sites = [
            Metric(k / n, *wilson(k, n), n=int(n)) for k, n in zip(successes, sizes, strict=True)
        ]
        mean = site_mean(sites)
        assert mean.low is not None
        assert mean.high is not None
        inside.append(mean.low <= truth.mean() <= mean.high)
    assert 0.93 <= np.mean(inside) <= 0.975
