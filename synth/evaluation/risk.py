"""A privacy risk with its interval, its baseline and the number of attacks: never a bare number.

Two kinds of figures:

* of membership attacks: AUC (baseline 0.5) and the true positive rate at 1 % false positives
  (baseline 0.01). What they are compared with are patients who were not in training.
* of attacks on attributes: the residual risk of Giomi et al. 2023 (PoPETs 2023(2):312-328,
  arXiv:2211.10459), with the rates of success against members, `a`, and against patients who were
  not in training, `c`:

      R = (a - c) / (1 - c) = 1 - (1 - a) / (1 - c)

  What is true of everybody (that sepsis comes with fever) helps against both and cancels;
  what remains is known from a patient's own row.

All are lower bounds: another attacker may know more, or try harder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from fedward.common.intervals import wilson
from fedward.common.metrics import auroc
from fedward.common.task import Metric

MIN_PATIENTS = 20
"""No figure comes from fewer attacked patients: its interval would be most of the scale."""
FPR = 0.01
ALL = "all"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """How often an attack succeeded, and how often it would have without a member's row."""

    attack: Metric
    """Against members."""
    naive: Metric
    """Against members, by an attacker who ignores what is known of them."""
    control: Metric
    """Against patients who were not in training."""


@dataclass(frozen=True)
class Risk:
    """One figure of one attack on one group of patients; intervals are at 95 %."""

    name: str
    """Attack and figure, such as `density_auc`."""
    group: str
    """Whom the figure is about: `all`, a class, `outliers`, or the secret that was guessed."""
    value: float | None
    """None where there is no figure; `reason` then says why."""
    low: float | None
    high: float | None
    baseline: float
    """The value of a table that tells nothing about its patients."""
    num_attacks: int
    """Members (or, for singling out, predicates) behind the value."""
    rates: Rates | None = None
    """Of attacks on attributes."""
    reason: str | None = None
    caution: str | None = None
    """What the value does not show, such as a class that is left out."""

    @property
    def is_leak(self) -> bool:
        """Whether the whole interval lies above the baseline."""
        return self.low is not None and self.low > self.baseline


def no_risk_known(name: str, group: str, baseline: float, num_attacks: int, reason: str) -> Risk:
    """Return the risk without a value that says why there is none."""
    return Risk(name, group, None, None, None, baseline, num_attacks, reason=reason)


def auc_risk(name: str, group: str, member: Floats, other: Floats) -> Risk:
    """Return the chance that a member's score is above that of a patient not in training.

    Args:
        name: of the figure.
        group: whose scores they are.
        member: (M,) scores of members.
        other: (O,) scores of the others.
    """
    few = _too_few(len(member), len(other), MIN_PATIENTS)
    if few:
        return no_risk_known(name, group, 0.5, len(member), few)
    is_member = np.repeat([True, False], [len(member), len(other)])
    area = auroc(is_member, np.concatenate([member, other]))
    return Risk(name, group, area.value, area.low, area.high, 0.5, len(member))


def tpr_risk(name: str, group: str, member: Floats, other: Floats) -> Risk:
    """Return the share of members recognised where 1 % of the others are taken for members.

    The interval takes both samples into account and no shape of the scores (ours): the true
    threshold lies between two order statistics of the others with 97.5 %, and each has a Wilson
    interval of 97.5 %. With fewer than 600 others no order statistic is surely above the
    threshold, and the lower limit is 0.

    Args:
        name: of the figure.
        group: whose scores they are.
        member: (M,) scores of members.
        other: (O,) scores of the others, 100 or more.
    """
    few = _too_few(len(member), len(other), round(1 / FPR))
    if few:
        return no_risk_known(name, group, FPR, len(member), few)
    falling = np.append(np.sort(other)[::-1], -math.inf)

    def found(num_false: int) -> int:
        return int((member > falling[num_false]).sum())

    n = len(member)
    fewest, most = (int(binom.ppf(q, len(other), FPR)) for q in (0.0125, 0.9875))
    low = wilson(found(fewest - 1), n, 0.975)[0] if fewest else 0.0
    high = wilson(found(most), n, 0.975)[1]
    return Risk(name, group, found(int(FPR * len(other))) / n, low, high, FPR, n)


def mean_risk(risks: Sequence[Risk]) -> Risk:
    """Return the mean of the classes' risks, weighted by their members, as that of all patients.

    Members are compared with others of the same class only, so that unequal shares of the classes
    do not pass for membership. Limits are combined as in `fedward.common.intervals`. A class
    without a figure is left out, and named.
    """
    if len(risks) == 1:
        return replace(risks[0], group=ALL)
    known = [risk for risk in risks if risk.value is not None]
    left_out = [f"{risk.group} ({risk.reason})" for risk in risks if risk.value is None]
    first = risks[0]
    if not known:
        num_attacks = sum(risk.num_attacks for risk in risks)
        return no_risk_known(first.name, ALL, first.baseline, num_attacks, "; ".join(left_out))
    n = sum(risk.num_attacks for risk in known)
    sides = np.array([[risk.value, risk.low, risk.high] for risk in known], dtype=np.float64)
    weight = np.array([risk.num_attacks / n for risk in known])
    value = float(weight @ sides[:, 0])
    down = float(np.linalg.norm(weight * (sides[:, 0] - sides[:, 1])))
    up = float(np.linalg.norm(weight * (sides[:, 2] - sides[:, 0])))
    caution = f"without {'; '.join(left_out)}" if left_out else None
    low, high = max(0.0, value - down), min(1.0, value + up)
    return Risk(first.name, ALL, value, low, high, first.baseline, n, caution=caution)


def residual_risk(name: str, group: str, rates: Rates) -> Risk:
    """Return R (see above), cut to [0, 1], with the interval of a ratio of two proportions.

    The interval of (1 - a) / (1 - c) is MOVER's from the two Wilson intervals: Donner and Zou
    2012, Statistical Methods in Medical Research 21:347-359. (The article takes a
    linear approximation, which is poor where an attack nearly always succeeds.)

    Args:
        name: of the attack.
        group: whom or what it is about.
        rates: of success; without a value where there were no attacks.
    """
    a, c = rates.attack, rates.control
    few = _too_few(a.n or 0, c.n or 0, MIN_PATIENTS)
    if few:
        return replace(no_risk_known(name, group, 0.0, a.n or 0, few), rates=rates)
    assert a.value is not None
    assert a.n is not None
    assert c.value is not None
    if c.value == 1:
        reason = "the attack always succeeds against patients who were not in training, too"
        return replace(no_risk_known(name, group, 0.0, a.n, reason), rates=rates)
    smallest, largest = _ratio_limits(_failure(a), _failure(c))
    value, low, high = (
        min(1.0, max(0.0, 1 - ratio))
        for ratio in ((1 - a.value) / (1 - c.value), largest, smallest)
    )
    naive = rates.naive.value
    weak = naive is not None and a.value <= naive
    caution = "the attack does no better than guessing: its risk says little" if weak else None
    return Risk(name, group, value, low, high, 0.0, a.n, rates, caution=caution)


def rate(successes: float, n: int) -> Metric:
    """Return the rate `successes / n` with its Wilson interval; without a value where n is 0."""
    if n == 0:
        return Metric(None, n=0, reason="no attacks")
    low, high = wilson(successes, n)
    return Metric(successes / n, low, high, n=n)


def _failure(success: Metric) -> tuple[float, float, float]:
    assert success.value is not None
    assert success.low is not None
    assert success.high is not None
    return 1 - success.value, 1 - success.high, 1 - success.low


def _ratio_limits(
    top: tuple[float, float, float], bottom: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the limits of top / bottom, each (value, low, high) with bottom's low above 0."""
    p, p_low, p_high = top
    q, q_low, q_high = bottom

    def root(p_end: float, q_end: float) -> float:
        return math.sqrt(max(0.0, (p * q) ** 2 - p_end * q_end * (2 * p - p_end) * (2 * q - q_end)))

    # The textbook's first limit divides 0 by 0 at 2 q = q_high; this is the same, expanded.
    below = p_low * (2 * p - p_low) / (p * q + root(p_low, q_high)) if p_low > 0 else 0.0
    above = (p * q + root(p_high, q_low)) / (q_low * (2 * q - q_low))
    return below, above


def _too_few(num_members: int, num_others: int, min_others: int) -> str | None:
    if num_members < MIN_PATIENTS:
        return f"{num_members} members, fewer than {MIN_PATIENTS}"
    if num_others < min_others:
        return f"{num_others} patients who were not in training, fewer than {min_others}"
    return None
