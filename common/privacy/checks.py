"""What a privacy budget must be like to promise anything; a clear error for each value that is not.

None of this is left to an accountant. With a noise multiplier that is not a number Opacus' never
returns; a negative number of steps gives budget back; a delta of 1 or more makes epsilon negative.
"""

import math
from typing import Any

from fedward.common.errors import ConfigError

MAX_EPSILON = 1000.0
MAX_NOISE_MULTIPLIER = 1e4
MIN_NOISE_MULTIPLIER = 1e-3
MIN_SAMPLE_RATE = 1e-9
MAX_STEPS = 10**9


def check_epsilon(epsilon: Any) -> float:
    """Return the budget as a float.

    Raises:
        ConfigError: it is no number above 0 and at most 1000.
    """
    if not _is_number(epsilon) or not 0 < epsilon <= MAX_EPSILON:
        raise ConfigError(
            f"epsilon: given {_told(epsilon)}, expected a number above 0 and at most "
            f"{MAX_EPSILON:g}; 1 to 8 is usual"
        )
    return float(epsilon)


def check_delta(delta: Any, num_patients: int | None = None) -> float:
    """Return delta as a float.

    Args:
        delta: the probability with which the promise may fail. There is no default.
        num_patients: of the site. A delta of one over it allows to publish one patient whole;
            None: not known here.

    Raises:
        ConfigError: it is no number above 0 and below 1, or not below 1 / `num_patients`.
    """
    if not _is_number(delta) or not 0 < delta < 1:
        raise ConfigError(
            f"delta: given {_told(delta)}, expected a number above 0 and below 1, and well below "
            "one over the number of patients; there is no default"
        )
    if num_patients is not None and delta * num_patients >= 1:
        raise ConfigError(
            f"delta: given {delta:g}, which is not below one over the {num_patients} patients: it "
            f"would allow one of them to be published whole. Give less than {1 / num_patients:.2g}"
        )
    return float(delta)


def check_noise_multiplier(noise_multiplier: Any) -> float:
    """Return the noise multiplier as a float.

    Raises:
        ConfigError: it is no number from 0.001 to 10,000.
    """
    if not _is_number(noise_multiplier) or not (
        MIN_NOISE_MULTIPLIER <= noise_multiplier <= MAX_NOISE_MULTIPLIER
    ):
        raise ConfigError(
            f"noise multiplier: given {_told(noise_multiplier)}, expected a number from "
            f"{MIN_NOISE_MULTIPLIER:g} to {MAX_NOISE_MULTIPLIER:g}; 0.5 to 10 is usual"
        )
    return float(noise_multiplier)


def check_sample_rate(sample_rate: Any) -> float:
    """Return the probability with which each patient is drawn for a step, as a float.

    Raises:
        ConfigError: it is no number above 0 (at least 1e-9) and at most 1.
    """
    if not _is_number(sample_rate) or not MIN_SAMPLE_RATE <= sample_rate <= 1:
        raise ConfigError(
            f"sample rate: given {_told(sample_rate)}, expected a number above 0 and at most 1: "
            "patients per step over patients of the site"
        )
    return float(sample_rate)


def check_steps(num_steps: Any, what: str = "steps") -> int:
    """Return a count of steps or rounds.

    Args:
        num_steps: as it was given.
        what: its name in the error.

    Raises:
        ConfigError: it is no whole number from 1 to a milliard. None counts as not given.
    """
    if num_steps is None:
        raise ConfigError(
            f"{what}: not given; how much noise a budget needs follows from how often it is used"
        )
    if isinstance(num_steps, bool) or not isinstance(num_steps, int):
        raise ConfigError(f"{what}: given {_told(num_steps)}, expected a whole number")
    if not 1 <= num_steps <= MAX_STEPS:
        raise ConfigError(f"{what}: given {num_steps}, expected from 1 to {MAX_STEPS}")
    return num_steps


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(value: Any) -> str:
    """Return a number as it was given; of anything else only that it is none."""
    if value is None:
        return "nothing"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"a {type(value).__name__}"
    return f"{value:g}"
