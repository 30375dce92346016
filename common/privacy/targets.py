"""How much noise a budget needs, and whether anything can be learnt through it."""

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy.optimize import brentq

from fedward.common.errors import BudgetSpentError, ConfigError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.checks import (
    MAX_NOISE_MULTIPLIER,
    MIN_NOISE_MULTIPLIER,
    check_delta,
    check_epsilon,
    check_noise_multiplier,
    check_sample_rate,
    check_steps,
)

DIGITS = 4
"""Of a noise multiplier, rounded up: settings that differ in the twelfth would be kept apart."""
FEW_PATIENTS = 100


@dataclass(frozen=True)
class Target:
    """What a run wants of a site: a budget for all of its rounds, or a noise multiplier.

    Raises:
        ConfigError: both or neither are given, a value is out of range, or the rounds are missing.
    """

    delta: float | None
    """There is no default."""
    rounds: int | None
    """All that are planned: the noise follows from it."""
    epsilon: float | None = None
    """Of all rounds together."""
    noise_multiplier: float | None = None
    """Or the noise itself; epsilon follows from it."""
    beside: tuple[Segment, ...] = ()
    """What else is paid for out of the budget, such as noised figures."""

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ConfigError("privacy: give exactly one of epsilon and noise_multiplier")
        check_delta(self.delta)
        check_steps(self.rounds, "planned rounds")
        if self.epsilon is not None:
            check_epsilon(self.epsilon)
        else:
            check_noise_multiplier(self.noise_multiplier)

    def noise_at(
        self,
        sample_rate: float,
        steps_per_round: int,
        *,
        num_patients: int,
        before: tuple[Segment, ...] = (),
    ) -> float:
        """Return the noise multiplier of a site.

        Args:
            sample_rate: the probability with which the site draws each patient.
            steps_per_round: of the site.
            num_patients: of the site, for what delta must stay below.
            before: what the site's patients have spent in the runs that this one goes on from.

        Raises:
            ConfigError: delta is not below 1 / `num_patients`, or no noise is enough.
            BudgetSpentError: the budget was spent before.
        """
        delta = check_delta(self.delta, num_patients)
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None
        assert self.rounds is not None
        steps = self.rounds * check_steps(steps_per_round, "steps per round")
        if before and (spent := epsilon_of(before, delta)) >= self.epsilon:
            raise BudgetSpentError(
                f"privacy.epsilon: {self.epsilon:g} is of all runs that trained this model, and "
                f"those that model.init comes from have spent {spent:.3g}; allow more than that"
            )
        return noise_for(
            self.epsilon,
            delta,
            sample_rate=sample_rate,
            num_steps=steps,
            beside=(*self.beside, *before),
        )


@lru_cache(maxsize=1024)
def noise_for(
    epsilon: float,
    delta: float,
    *,
    sample_rate: float,
    num_steps: int,
    beside: tuple[Segment, ...] = (),
) -> float:
    """Return the least noise multiplier, to four digits, whose steps cost at most `epsilon`.

    Args:
        epsilon: > 0, of all steps together.
        delta: > 0 and < 1.
        sample_rate: > 0 and <= 1.
        num_steps: of all planned rounds.
        beside: what else the budget pays for.

    Raises:
        ConfigError: a value is out of range, or the largest noise is not enough.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    check_sample_rate(sample_rate)
    check_steps(num_steps)

    def too_much(noise: float) -> float:
        return epsilon_of([Segment(noise, sample_rate, num_steps), *beside], delta) - epsilon

    if beside and epsilon_of(beside, delta) >= epsilon:
        raise ConfigError(
            f"privacy.figures_noise: the figures alone cost more than epsilon {epsilon:g} leaves "
            "them; use a larger one, a larger evaluate_every, or figures: none"
        )

    low, high = 1.0, 1.0
    while too_much(high) > 0:
        low, high = high, high * 2
        if high > MAX_NOISE_MULTIPLIER:
            raise ConfigError(
                f"epsilon {epsilon:g} at delta {delta:g} cannot be had with {num_steps} steps, "
                "whatever the noise; plan fewer rounds, or a larger epsilon or delta"
            )
    while too_much(low) <= 0:
        low, high = low / 2, low
        if low < MIN_NOISE_MULTIPLIER:
            return MIN_NOISE_MULTIPLIER
    found = math.exp(
        brentq(lambda log: too_much(math.exp(log)), math.log(low), math.log(high), xtol=1e-5)
    )
    noise = _rounded_up(found)
    while too_much(noise) > 0:  # the search ends on either side
        noise = _rounded_up(noise * (1 + 10.0**-DIGITS))
    return noise


def drowning(
    noise_multiplier: float,
    *,
    num_patients: int,
    patients_per_step: float,
    num_steps: int,
    num_parameters: int,
) -> str | None:
    """Return a warning where noise leaves little to be learnt at a site; None elsewhere.

    If every patient's gradient pointed the same way and were as long as the clipping norm C, n
    drawn patients and T steps would add up to n T C, and the noise to sigma C sqrt(T d) over d
    parameters. Where the first is the smaller, nothing can be seen (ours).

    Args:
        noise_multiplier: sigma.
        num_patients: of the site.
        patients_per_step: n, on average.
        num_steps: T, of the whole run.
        num_parameters: d, those that are trained.
    """
    signal = patients_per_step * math.sqrt(num_steps)
    ratio = signal / (noise_multiplier * math.sqrt(max(num_parameters, 1)))
    if num_patients >= FEW_PATIENTS and ratio >= 1:
        return None
    few = f"only {num_patients} patients, " if num_patients < FEW_PATIENTS else ""
    return (
        f"{few}{num_parameters} parameters under noise multiplier {noise_multiplier:g}: at best "
        f"the signal of the whole run is {ratio:.2g} times as large as its noise. Train fewer "
        "parameters (only the head of a trained model, or an adapter), or allow a "
        "larger epsilon"
    )


def _rounded_up(noise: float) -> float:
    """Return the number up to `DIGITS` digits, never below it."""
    unit = 10.0 ** (math.floor(math.log10(noise)) - DIGITS + 1)
    return float(f"{math.ceil(noise / unit * (1 - 1e-12)) * unit:.{DIGITS}g}")
