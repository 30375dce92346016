"""Intervals of means and differences, from values or from other intervals.

All are two-sided. Where only estimates with limits are known (a site's figures leave it, its
predictions do not), the variances are recovered from the limits: MOVER, Zou and Donner 2008,
Statistics in Medicine 27:1693-1702. Unlike half-widths over 1.96, that keeps an interval near
0 or 1 lopsided, as it should be.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

from fedward.common.task import Metric


def mean_interval(values: Sequence[float], level: float = 0.95) -> Metric:
    """Return the mean of `values` with Student's t interval; one value has no interval.

    `n` is the number of values. Values must be finite.
    """
    n = len(values)
    if n == 0:
        return Metric(None, n=0, reason="no values")
    mean = float(np.mean(values))
    if n == 1:
        return Metric(mean, n=1)
    spread = float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * spread
    return Metric(mean, mean - half, mean + half, n=n)


def paired_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Metric:
    """Return the mean of `a - b` with the t interval of the pairwise differences.

    Args:
        a: one value per pair, such as per seed.
        b: the other value of each pair, in the same order.
        level: probability that the interval covers.

    Raises:
        ValueError: the lengths differ.
    """
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], level)


def site_mean(metrics: Sequence[Metric]) -> Metric:
    """Return the unweighted mean over the sites where the metric is defined.

    With K such sites, value v_s and limits l_s, h_s:

        mean - sqrt(sum (v_s - l_s)^2) / K   to   mean + sqrt(sum (h_s - v_s)^2) / K

    The sites are taken as given (these hospitals, not a draw of hospitals) and as independent of
    each other: a patient is at one site. `n` is the number of their patients. There is no
    interval when one of the sites has none.
    """
    defined = [metric for metric in metrics if metric.value is not None]
    if not defined:
        return Metric(None, n=0, reason="undefined at every site" if metrics else "no sites")
    value = math.fsum(metric.value for metric in defined if metric.value is not None) / len(defined)
    n = None
    if all(metric.n is not None for metric in defined):
        n = sum(metric.n for metric in defined if metric.n is not None)
    reach = [_reach(metric) for metric in defined]
    if any(pair is None for pair in reach):
        return Metric(value, n=n)
    down, up = (math.hypot(*side) / len(defined) for side in zip(*filter(None, reach), strict=True))
    return Metric(value, value - down, value + up, n=n)


def difference(a: Metric, b: Metric) -> Metric:
    """Return `a - b` with an interval that takes the two as independent.

    Two models tested on the same patients are positively correlated; their true interval is then
    narrower than this one. So a difference that is clear here is clear. `n` is the smaller n.
    """
    for metric in (a, b):
        if metric.value is None:
            return Metric(None, n=metric.n, reason=metric.reason)
    assert a.value is not None
    assert b.value is not None
    value = a.value - b.value
    n = min((m.n for m in (a, b) if m.n is not None), default=None)
    reach_a, reach_b = _reach(a), _reach(b)
    if reach_a is None or reach_b is None:
        return Metric(value, n=n)
    down, up = math.hypot(reach_a[0], reach_b[1]), math.hypot(reach_a[1], reach_b[0])
    return Metric(value, value - down, value + up, n=n)


def z_value(level: float = 0.95) -> float:
    """Return the two-sided normal quantile, 1.96 for 95 %."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of the proportion `successes / n`, inside [0, 1]; n > 0.

    Source: Wilson 1927, JASA 22:209-212; Brown, Cai and DasGupta 2001 recommend it.
    """
    z = z_value(level)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def _reach(metric: Metric) -> tuple[float, float] | None:
    """Return how far the interval goes below and above the value."""
    if metric.value is None or metric.low is None or metric.high is None:
        return None
    return metric.value - metric.low, metric.high - metric.value
