"""What steps of DP-SGD cost: the subsampled Gaussian mechanism, in Renyi differential privacy.

Each step draws every patient with probability q by a coin of its own (Poisson sampling), clips each
drawn patient's gradient to norm C and adds Gaussian noise of deviation sigma C to the sum. Such a
step has Renyi divergence rho(a) at order a (Mironov, Talwar and Zhang 2019, arXiv:1908.10530);
those of a history add up, and epsilon is the best that any order gives (Balle et al. 2020,
arXiv:1905.09982, Theorem 21). The divergences are Opacus'.

The history may be chosen while it goes on, also by somebody who sees what was released: as long as
the sum stays below a limit that was fixed before, the limit holds (Lecuyer 2021, arXiv:2103.01379).

Neighbours are two cohorts of which one has one patient more.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.errors import ConfigError
from fedward.common.privacy.checks import (
    check_delta,
    check_epsilon,
    check_noise_multiplier,
    check_sample_rate,
    check_steps,
)
from fedward.common.quiet import root_logger_kept

Floats = npt.NDArray[np.float64]

# Opacus' own end at 63, below which epsilon cannot fall under 0.1. Its binomials overflow at 1030.
WHOLE_ORDERS = (*range(2, 65), 91, 128, 181, 256, 362, 512, 724, 1024)
# Below 2 only epsilons above 25 would gain, which promise nothing.
BROKEN_ORDERS = (2.25, 2.5, 2.75, 3.25, 3.5, 3.75, 4.25, 4.5, 4.75, 5.5, 6.5, 7.5)
ORDERS: Floats = np.array([*BROKEN_ORDERS, *WHOLE_ORDERS], dtype=np.float64)
KEPT_SETTINGS = 4096
MAX_ROUNDS_LEFT = 10**6


@dataclass(frozen=True, order=True)
class Segment:
    """Steps of one setting.

    Raises:
        ConfigError: a value is out of range, not finite, or no number.
    """

    noise_multiplier: float
    """Standard deviation of the noise over the largest norm of one patient's gradient."""
    sample_rate: float
    """Probability with which each patient is drawn; 1: all, as for a noisy sum."""
    num_steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_multiplier", check_noise_multiplier(self.noise_multiplier))
        object.__setattr__(self, "sample_rate", check_sample_rate(self.sample_rate))
        check_steps(self.num_steps)


def merged(history: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the history with equal settings put together; the order of steps does not matter."""
    steps: Counter[tuple[float, float]] = Counter()
    for one in history:
        steps[one.noise_multiplier, one.sample_rate] += one.num_steps
    return tuple(sorted(Segment(sigma, rate, count) for (sigma, rate), count in steps.items()))


def epsilon_of(history: Iterable[Segment], delta: float) -> float:
    """Return the epsilon that a history has cost at `delta`; 0 for an empty one.

    Args:
        history: everything that was ever done with the patients, not one round of it.
        delta: > 0 and < 1.

    Raises:
        ConfigError: delta is out of range, or Opacus is not installed.
    """
    check_delta(delta)
    divergence = rdp_of(history)
    if not divergence.any():
        return 0.0
    return max(0.0, float((divergence + _gain(delta)).min()))


def rdp_of(history: Iterable[Segment]) -> Floats:
    """Return the Renyi divergence of a history at each of `ORDERS`."""
    total = np.zeros(len(ORDERS))
    for one in history:
        total += one.num_steps * _rdp_of_step(one.noise_multiplier, one.sample_rate)
    return total


def rounds_left(
    spent: Iterable[Segment], a_round: Iterable[Segment], *, epsilon: float, delta: float
) -> int:
    """Return how many more rounds like `a_round` fit in a budget; up to a million.

    Args:
        spent: what was done before.
        a_round: what one of them does.
        epsilon: the budget.
        delta: of the budget.
    """
    left = check_epsilon(epsilon) - _gain(check_delta(delta)) - rdp_of(spent)
    per_round = np.maximum(rdp_of(a_round), 1e-30)  # which is below rounding
    most = left / per_round  # of the rounds that each order allows
    return math.floor(min(max(float(most.max()), 0.0), MAX_ROUNDS_LEFT))


def _gain(delta: float) -> Floats:
    """Return what turns the divergence at each order into epsilon."""
    return np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)


@lru_cache(maxsize=KEPT_SETTINGS)
def _rdp_of_step(noise_multiplier: float, sample_rate: float) -> Floats:
    """Return (len(ORDERS),) Renyi divergences of one step.

    Between whole orders Opacus sums a series that need not converge. The logarithm of the moment,
    (a - 1) rho(a), is convex in a: what the whole orders beside it do not allow is replaced by
    their chord, which is never too small.
    """
    compute_rdp = _opacus()
    setting = {"q": sample_rate, "noise_multiplier": noise_multiplier, "steps": 1}
    whole = np.maximum(compute_rdp(**setting, orders=list(WHOLE_ORDERS)), 0.0)
    orders = np.array([1, *WHOLE_ORDERS], dtype=np.float64)
    moments = np.concatenate([[0.0], whole * (orders[1:] - 1)])
    asked = np.array(BROKEN_ORDERS)
    told = np.array([_broken_order(compute_rdp, setting, order) for order in BROKEN_ORDERS])
    chord = np.interp(asked, orders, moments)
    below = np.floor(asked).astype(int) - 1  # `orders` begins with 1, 2, 3 ...
    part, rise = asked - np.floor(asked), np.diff(moments)
    least = np.maximum(
        moments[below] + part * rise[below - 1], moments[below + 1] - (1 - part) * rise[below + 1]
    )
    moment = told * (asked - 1)
    broken = np.where((moment >= least) & (moment <= chord), moment, chord) / (asked - 1)
    found = np.concatenate([broken, whole])
    found.setflags(write=False)
    return found


def _broken_order(compute_rdp: Any, setting: dict[str, Any], order: float) -> float:
    try:
        return float(compute_rdp(**setting, orders=order))
    except (ValueError, OverflowError):  # the series left the floats
        return math.nan


@cache
def _opacus() -> Any:
    """Return Opacus' Renyi divergence of the subsampled Gaussian mechanism.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with root_logger_kept():
            from opacus.accountants.analysis.rdp import compute_rdp
    except ImportError as error:
        raise ConfigError(
            "differential privacy needs the package opacus: pip install 'fedward[dp]'"
        ) from error
    return compute_rdp
