"""From where on a layer counts as one that goes nowhere, by optimiser and form.

`python -m fedward.simulations.stopping.calibrate` chose the table, on federated trajectories whose
true loss is known at every round; it prints the rates at which they err, and says how.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """When a round of one layer is quiet, and for how long it must be.

    Args:
        log_mag: a round with less than this is quiet.
        rho: a round with less than this is quiet if its `log_mag` is also steady.
        steady: largest change of `log_mag` from the round before that counts as none.
        num_rounds: quiet rounds in a row.
    """

    log_mag: float
    rho: float
    steady: float
    num_rounds: int = 2


UNCALIBRATED = Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05)
"""For an optimiser and form that were never calibrated."""

# The rates are of other trajectories than those chosen on. Few true rounds are found: weights move
# towards the site's own optimum in every round, also when the federation gains nothing any more,
# and rho stays positive.
THRESHOLDS: dict[str, dict[str, Thresholds]] = {
    "rms": {
        # Too soon on 6 % (9 of 144), found on 15 % (16 of 104), then 8 rounds late (median).
        "sgd": Thresholds(log_mag=-3.0, rho=0.1, steady=0.0, num_rounds=5),
        # Too soon on 0 of 176, found on 0 of 80: nothing tried finds any with few false alarms.
        "sgd+momentum": Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05, num_rounds=2),
        # Too soon on 0 of 160, found on 17 % (16 of 96), then 3 rounds late.
        "adam": Thresholds(log_mag=-3.0, rho=0.5, steady=0.2, num_rounds=2),
        # The same.
        "adamw": Thresholds(log_mag=-3.0, rho=0.5, steady=0.2, num_rounds=2),
    }
}
"""By form, then optimiser."""


def optimizer_key(name: str, momentum: float = 0.0) -> str:
    """Return the row of an optimiser: its name, or such as `sgd+momentum`."""
    return f"{name}+momentum" if momentum > 0 else name
