"""Chooses the thresholds of saturation per optimiser, on trajectories with known answers.

    python -m fedward.simulations.stopping.calibrate [--only OPTIMISER] [--json]

Of all thresholds tried, those are taken that fire soonest after the true round (a trajectory on
which they do not counts as if they had fired at its end), among those that fire before it on at
most 5 % of the trajectories on which that is possible. The rates printed are of other trajectories
than those they were chosen on. "Fires" means: half of the sites are saturated.

Before that, all thresholds are refused that ever fire on weights which walk at random or drift, or
that do not fire on such as come to rest (`trajectories.plain_trajectories`).

The settings: small and large layer, with and without differences between sites, little and much
noise, one and five local epochs, three step sizes of which the smallest never gets there.

Shapes: T trajectories, S sites, R rounds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from fedward.client.optimizers import OptimizerSettings
from fedward.common.monitoring.saturation import DECIMALS, least_log_mag
from fedward.common.monitoring.thresholds import UNCALIBRATED, Thresholds
from fedward.simulations.stopping.trajectories import (
    LAYER,
    SITES,
    Layers,
    Setting,
    plain_trajectories,
    run_setting,
)

Rounds = Sequence[Mapping[str, Layers]]
"""Of one trajectory: figures by site and layer."""
MAX_FALSE_ALARMS = 0.05
SHARE = 0.5
ROUNDS, ROUNDS_OF_TRUTH = 40, 80
STEP_SIZES: Mapping[str, tuple[float, ...]] = {
    "sgd": (0.003, 0.03, 0.15),
    "sgd+momentum": (0.0005, 0.004, 0.02),
    "adam": (0.0003, 0.003, 0.02),
    "adamw": (0.0003, 0.003, 0.02),
}
TRIED = tuple(
    Thresholds(log_mag, rho, steady, num_rounds, window)
    for log_mag, rho, steady, num_rounds, window in product(
        (-5.0, -4.0, -3.5, -3.0, -2.75, -2.5),
        (-0.5, -0.4, -0.35, -0.3, -0.25, -0.2, -0.15, -0.1, -0.06, -0.02),
        (0.0, 0.05, 0.1, 0.2),
        (1, 2, 3, 5),
        (1, 3, 5),
    )
)
PLAIN_REPETITIONS = 10


@dataclass(frozen=True)
class Told:
    """The figures of many trajectories; NaN where undefined.

    Args:
        log_mag_TSR: of each site.
        rho_TSR: of each site.
        true_T: the true round; R + 1 where there is none.
    """

    log_mag_TSR: npt.NDArray[np.float64]
    rho_TSR: npt.NDArray[np.float64]
    true_T: npt.NDArray[np.int64]

    @property
    def num_rounds(self) -> int:
        """R."""
        return int(self.log_mag_TSR.shape[2])


@dataclass(frozen=True)
class Rates:
    """What thresholds do on trajectories.

    Args:
        false_alarms: share that fires before the true round, of those where it could.
        num_at_risk: how many those are.
        detected: share that fires at the true round or later, of those that have one.
        num_saturating: how many those are.
        delay_rounds: median from the true round to the alarm, of those detected; None: of none.
        cost_rounds: mean of the same, where those that are not detected count to the end.
    """

    false_alarms: float
    num_at_risk: int
    detected: float
    num_saturating: int
    delay_rounds: float | None
    cost_rounds: float


def settings_of(key: str) -> Iterator[Setting]:
    """Yield the settings that the thresholds of one optimiser are chosen on."""
    name, _, momentum = key.partition("+")
    shapes = ((2, 24), (32, 48))
    for rate, shape, noise, spread, epochs in product(
        STEP_SIZES[key], shapes, (0.3, 1.5), (0.0, 0.5), (1, 5)
    ):
        optimizer = OptimizerSettings(
            name,  # type: ignore[arg-type]
            rate,
            momentum=0.9 if momentum else 0.0,
            weight_decay=0.01 if name == "adamw" else 0.0,
        )
        yield Setting(optimizer, *shape, noise=noise, spread=spread, epochs=epochs)


def tell(settings: Sequence[tuple[Sequence[Rounds], int | None]]) -> Told:
    """Return the figures of several settings: of each its repetitions, and the true round."""
    rounds = [(own, true) for repetitions, true in settings for own in repetitions]
    num_rounds = len(rounds[0][0])
    return Told(
        np.array([_column(own, "log_mag") for own, _ in rounds]),
        np.array([_column(own, "rho") for own, _ in rounds]),
        np.array([num_rounds + 1 if true is None else true for _, true in rounds]),
    )


def alarms(told: Told, thresholds: Thresholds) -> npt.NDArray[np.int64]:
    """Return (T,) after which round the thresholds fire; R + 1: they do not.

    The rule of `fedward.common.monitoring.saturation`, for many trajectories at once.
    """
    rounding, window = 1e-9, thresholds.window
    quiet_TSR = np.zeros(told.log_mag_TSR.shape, dtype=bool)
    log_mag = _means(np.maximum(told.log_mag_TSR, least_log_mag(thresholds)), window)
    rho = _means(told.rho_TSR, window)[:, :, window:]
    with np.errstate(invalid="ignore"):
        change = np.abs(log_mag[:, :, window:] - log_mag[:, :, :-window])
        noise = (rho < thresholds.rho) & (change <= thresholds.steady + rounding)
        small = log_mag[:, :, window:] < thresholds.log_mag
        quiet_TSR[:, :, 2 * window - 1 :] = small | noise
    in_a_row_TSR = quiet_TSR.copy()
    for back in range(1, thresholds.num_rounds):
        in_a_row_TSR[:, :, back:] &= quiet_TSR[:, :, :-back]
        in_a_row_TSR[:, :, :back] = False
    fires_TR = in_a_row_TSR.mean(axis=1) >= SHARE - rounding
    first_T = fires_TR.argmax(axis=1) + 1
    found: npt.NDArray[np.int64] = np.where(fires_TR.any(axis=1), first_T, told.num_rounds + 1)
    return found


def rates(told: Told, thresholds: Thresholds) -> Rates:
    """Return how often, and how late, the thresholds fire."""
    fired_T = alarms(told, thresholds)
    end = told.num_rounds
    at_risk_T = told.true_T > thresholds.num_rounds_needed
    is_false_T = fired_T < np.minimum(told.true_T, end + 1)
    saturates_T = told.true_T <= end
    detected_T = saturates_T & ~is_false_T & (fired_T <= end)
    late_T = saturates_T & ~is_false_T
    delay_T = np.minimum(fired_T, end) - told.true_T
    return Rates(
        false_alarms=float(is_false_T[at_risk_T].mean()) if at_risk_T.any() else 0.0,
        num_at_risk=int(at_risk_T.sum()),
        detected=float(detected_T.sum() / max(saturates_T.sum(), 1)),
        num_saturating=int(saturates_T.sum()),
        delay_rounds=float(np.median(delay_T[detected_T])) if detected_T.any() else None,
        cost_rounds=float(delay_T[late_T].mean()) if late_T.any() else float(end),
    )


@cache
def possible() -> tuple[Thresholds, ...]:
    """Return those tried that are right about weights which visibly settle, or never do."""
    plain = plain_trajectories(seed=0, num_repetitions=PLAIN_REPETITIONS, num_rounds=ROUNDS)
    told = Told(
        np.array([[_row(of.figures, "log_mag")] for of in plain]),
        np.array([[_row(of.figures, "rho")] for of in plain]),
        np.ones(len(plain), dtype=np.int64),
    )
    settles_T = np.array([of.settles for of in plain])
    return tuple(
        tried for tried in TRIED if np.array_equal(alarms(told, tried) <= ROUNDS, settles_T)
    )


def choose(told: Told) -> Thresholds:
    """Return the possible thresholds that fire soonest after the truth with few false alarms.

    Of several that are as good, the one nearest to those of no calibration.
    """
    scored = [(rates(told, tried), tried) for tried in possible()]
    allowed = [pair for pair in scored if pair[0].false_alarms <= MAX_FALSE_ALARMS]

    def badness(pair: tuple[Rates, Thresholds]) -> tuple[float, ...]:
        found, tried = pair
        away = (
            abs(tried.log_mag - UNCALIBRATED.log_mag),
            abs(tried.rho - UNCALIBRATED.rho),
            abs(tried.steady - UNCALIBRATED.steady),
            abs(tried.num_rounds - UNCALIBRATED.num_rounds),
            abs(tried.window - UNCALIBRATED.window),
        )
        return (round(found.cost_rounds, 3), found.false_alarms, *away)

    return min(allowed, key=badness)[1]


def calibrated(key: str, *, num_repetitions: int, seed: int) -> tuple[Thresholds, Rates]:
    """Return the thresholds of one optimiser, and their rates on other trajectories.

    Args:
        key: a row, such as `sgd+momentum`.
        num_repetitions: of each setting; one half to choose on, the other to rate on.
        seed: of everything random.
    """
    found = [
        run_setting(
            setting,
            seed=1000 * seed + number,
            num_repetitions=num_repetitions,
            num_rounds=ROUNDS,
            num_rounds_truth=ROUNDS_OF_TRUTH,
        )
        for number, setting in enumerate(settings_of(key))
    ]
    half = num_repetitions // 2
    chosen = choose(tell([(of.rounds[:half], of.true_round) for of in found]))
    return chosen, rates(tell([(of.rounds[half:], of.true_round) for of in found]), chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, and print the table and what goes into `common/monitoring/thresholds.py`."""
    parser = argparse.ArgumentParser(prog="python -m fedward.simulations.stopping.calibrate")
    parser.add_argument("--repetitions", type=int, default=8, help="of each setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(STEP_SIZES), help="one optimiser")
    parser.add_argument("--json", action="store_true", help="for scripts")
    args = parser.parse_args(argv)
    found = {}
    for key in [args.only] if args.only else STEP_SIZES:
        sys.stderr.write(f"{key}: {len(list(settings_of(key)))} settings\n")
        found[key] = calibrated(key, num_repetitions=args.repetitions, seed=args.seed)
    if args.json:
        rows = {key: {**asdict(t), **asdict(r)} for key, (t, r) in found.items()}
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    sys.stdout.write("\n".join(_table(found)) + "\n")
    return 0


def _table(found: Mapping[str, tuple[Thresholds, Rates]]) -> Iterator[str]:
    head = "optimiser | log_mag | rho | steady | rounds | window | false (n) | detected (n) | delay"
    yield f"| {head} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for key, (chosen, rate) in found.items():
        delay = "-" if rate.delay_rounds is None else f"{rate.delay_rounds:g}"
        alarms_told = f"{rate.false_alarms:.1%} ({rate.num_at_risk})"
        yield (
            f"| {key} | {chosen.log_mag:g} | {chosen.rho:g} | {chosen.steady:g} | "
            f"{chosen.num_rounds} | {chosen.window} | {alarms_told} | "
            f"{rate.detected:.0%} ({rate.num_saturating}) | {delay} |"
        )


def _column(rounds: Rounds, name: str) -> list[list[float]]:
    """Return a figure by site and round."""
    return [_row([told[site].get(LAYER, {}) for told in rounds], name) for site in SITES]


def _row(rounds: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [figures.get(name, np.nan) for figures in rounds]


def _means(values_TSR: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Return (T, S, R - window + 1) means of so many rounds in a row; NaN where one is."""
    num = values_TSR.shape[2] - window + 1
    # Added in the order of the rounds, as the rule does.
    sums = sum(values_TSR[:, :, start : start + num] for start in range(window))
    return np.round(sums / window, DECIMALS)


if __name__ == "__main__":
    sys.exit(main())
