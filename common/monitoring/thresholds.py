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
        steady: largest change of `log_mag` from the rounds before that counts as none.
        num_rounds: quiet rounds in a row.
        window: of how many rounds, up to this one, figures are means; and those before, as many.
    """

    log_mag: float
    rho: float
    steady: float
    num_rounds: int = 2
    window: int = 1

    @property
    def num_rounds_needed(self) -> int:
        """First round, counted from 1, after which a layer can be saturated."""
        return 2 * self.window + self.num_rounds - 1

    @property
    def num_rounds_kept(self) -> int:
        """How many of the last rounds of a site a judgement rests on: those needed, and a spare.

        A layer without figures in any of them counts as one that never had any.
        """
        return 2 * (self.window + self.num_rounds)


UNCALIBRATED = Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05)
"""For an optimiser and form that were never calibrated."""

# The rates are of other trajectories than those chosen on. Few true rounds are found: weights move
# towards the site's own optimum in every round, also when the federation gains nothing any more,
# and rho stays positive. Thresholds that call a random walk saturated would find some of them, and
# are refused.
THRESHOLDS: dict[str, dict[str, Thresholds]] = {
    "rms": {
        # Too soon on 3 % (4 of 128), found on 26 % (27 of 104), then 9 rounds late (median); never
        # before round 10.
        "sgd": Thresholds(log_mag=-3.0, rho=-0.06, steady=0.05, num_rounds=1, window=5),
        # Too soon on 0 of 176, found on 0 of 80: nothing possible finds any, so as without
        # calibration. They fire on a layer that stands still.
        "sgd+momentum": Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05, num_rounds=2),
        # Too soon on 0 of 160, found on 0 of 96: the same.
        "adam": Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05, num_rounds=2),
        # Too soon on 0 of 160, found on 0 of 96: the same.
        "adamw": Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05, num_rounds=2),
    }
}
"""By form, then optimiser."""


def optimizer_key(name: str, momentum: float = 0.0) -> str:
    """Return the row of an optimiser: its name, or such as `sgd+momentum`."""
    return f"{name}+momentum" if momentum > 0 else name
