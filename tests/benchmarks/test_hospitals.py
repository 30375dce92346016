import numpy as np
import pytest

from fedward.common.intervals import paired_interval
from tests.benchmarks.hospitals import ratio_interval


def test_fiellers_limits_are_where_the_t_interval_of_a_minus_r_b_touches_zero() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(0.05, 0.02, 10)
    a = 0.8 * b + rng.normal(0, 0.01, 10)
    ratio = ratio_interval(a.tolist(), b.tolist())
    assert ratio.value == pytest.approx(a.mean() / b.mean())
    for limit, side in ((ratio.low, "low"), (ratio.high, "high")):
        assert limit is not None
        touching = paired_interval(a.tolist(), (limit * b).tolist())
        assert getattr(touching, side) == pytest.approx(0, abs=1e-12)


def test_a_ratio_has_no_limits_where_its_denominator_may_be_zero() -> None:
    ratio = ratio_interval([0.1, 0.2, 0.1, 0.3], [0.1, -0.1, 0.05, -0.02])
    assert ratio.low is None
    assert ratio.high is None
