"""The closing statement of a history: epsilon by privacy loss distributions, where it can be had.

Renyi divergences bound epsilon 7 to 12 % too high, more with few steps. Composing the privacy loss
itself (Gopi, Lee and Wutschitz 2021, arXiv:2106.02848) is tight to a stated error, by Opacus. It
holds where noise and steps were not chosen by what came out before; under a limit, the bound by
Renyi divergences holds in any case.

It cannot be relied on while training goes on: with little noise the grid that it needs exhausts
the memory of any machine. How many points there would be is known beforehand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.checks import check_delta
from fedward.common.quiet import root_logger_kept

MAX_POINTS = 2**21
MAX_POINTS_OF_ALL = 2**23
MIN_NOISE_MULTIPLIER = 0.3
MAX_EPSILON = 100.0
SMALLEST = 1e-3
"""Epsilons below it are not told apart."""
ERRORS = (0.001, 0.003, 0.01, 0.03)
"""How far the bound may lie above the estimate, as parts of epsilon; the first whose grid is small
enough is used."""


@dataclass(frozen=True)
class Closing:
    """The epsilon of a whole history."""

    rdp: float
    """The bound by Renyi divergences, by which rounds are allowed."""
    tight: float | None
    """The bound by privacy loss distributions; None where it cannot be had."""
    estimate: float | None
    """What lies below that bound by no more than the error of the grid."""
    why_not: str | None = None
    """Why there is no tight bound."""

    @property
    def epsilon(self) -> float:
        """The better bound."""
        return self.rdp if self.tight is None else min(self.rdp, self.tight)


def close(history: Sequence[Segment], delta: float) -> Closing:
    """Return the closing statement of a history at `delta`.

    Raises:
        ConfigError: delta is out of range.
    """
    rdp = epsilon_of(history, check_delta(delta))
    segments = merged(history)
    if not segments:
        return Closing(0.0, 0.0, 0.0)
    smallest = segments[0].noise_multiplier
    if smallest < MIN_NOISE_MULTIPLIER:
        why = f"with noise multiplier {smallest:g} its grid would not fit in memory"
        return Closing(rdp, None, None, why)
    if rdp > MAX_EPSILON:
        return Closing(rdp, None, None, f"an epsilon above {MAX_EPSILON:g} promises nothing")
    for error in (part * max(rdp, SMALLEST) for part in ERRORS):
        extent = _extent(segments, delta, error)
        points = 2 * extent / _mesh(segments, delta, error)
        if points <= MAX_POINTS and points * len(segments) <= MAX_POINTS_OF_ALL:
            try:
                estimate, upper = _compose(segments, delta, error=error, extent=extent)
            except (RuntimeError, ValueError) as failed:
                return Closing(rdp, None, None, f"the composition did not succeed ({failed})")
            return Closing(rdp, upper, estimate)
    return Closing(rdp, None, None, f"its grid would have {points:.1e} points")


def _compose(
    segments: Sequence[Segment], delta: float, *, error: float, extent: float
) -> tuple[float, float]:
    """Return the estimate and the upper bound."""
    with root_logger_kept():
        from opacus.accountants.analysis.prv import (
            Domain,
            PoissonSubsampledGaussianPRV,
            TruncatedPrivacyRandomVariable,
            compose_heterogeneous,
            discretize,
        )

    domain = Domain.create_aligned(-extent, extent, _mesh(segments, delta, error))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # The losses of a rate of 1 begin at log(0), and the far ends of the grid overflow to 0.
        discrete = [
            discretize(
                TruncatedPrivacyRandomVariable(
                    PoissonSubsampledGaussianPRV(one.sample_rate, one.noise_multiplier),
                    domain.t_min,
                    domain.t_max,
                ),
                domain,
            )
            for one in segments
        ]
        composed = compose_heterogeneous(discrete, [one.num_steps for one in segments])
        _, estimate, upper = composed.compute_epsilon(delta, _delta_error(delta), error)
    if not math.isfinite(estimate) or not math.isfinite(upper):
        raise ValueError("not finite")
    return max(0.0, float(estimate)), max(0.0, float(upper))


def _extent(segments: Sequence[Segment], delta: float, error: float) -> float:
    """Return how far the grid must reach: Gopi et al., Remark 5.6, as Opacus has it."""
    count = sum(one.num_steps for one in segments)
    tail = _delta_error(delta)
    single = max(
        epsilon_of([Segment(one.noise_multiplier, one.sample_rate, 1)], tail / (8 * count))
        for one in segments
    )
    return max(epsilon_of(segments, tail / 4), single, error) + 3


def _mesh(segments: Sequence[Segment], delta: float, error: float) -> float:
    count = sum(one.num_steps for one in segments)
    return float(error / math.sqrt(count * math.log(12 / _delta_error(delta)) / 2))


def _delta_error(delta: float) -> float:
    return delta / 1000
