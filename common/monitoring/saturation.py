"""Whether layers, sites and the federation have stopped going anywhere.

Advisory: a layer that moves again is no longer saturated. Ours; the paper judges by eye.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from fedward.common.monitoring.thresholds import THRESHOLDS, UNCALIBRATED, Thresholds

__all__ = ["Thresholds", "federation_saturated", "saturated", "site_saturated", "thresholds_for"]

Figures = Mapping[str, float]

_ROUNDING = 1e-9
_FAR_BELOW = 1.0
DECIMALS = 12
"""Of means: that of three figures of -0.02 is not less than -0.02."""


def thresholds_for(optimizer: str, form: str) -> Thresholds:
    """Return the calibrated thresholds; those of no calibration for what was never calibrated.

    Args:
        optimizer: a key of the table in `thresholds`.
        form: of the elements.
    """
    return THRESHOLDS.get(form, {}).get(optimizer, UNCALIBRATED)


def saturated(series: Sequence[Figures | None], thresholds: Thresholds) -> list[bool]:
    """Return for each round whether one layer of one site was saturated then.

    It is while the last `num_rounds` rounds were quiet: less was moved than `log_mag`, or what was
    moved went back and forth (`rho`) as much as in the rounds before (`steady`). All figures are
    means of the last `window` rounds, compared with the `window` before those; a round without so
    many before it is not quiet, so with a window of 1 and two rounds in a row the third is the
    earliest. A round that is missing changes nothing: the next follows on the last that is there.

    Args:
        series: the figures of each round, oldest first. None: the site did not train, or told
            nothing. Where figures lack in the window, such as those of weights that were NaN, no
            round is quiet.
        thresholds: what is quiet.
    """
    told: list[bool] = []
    window = thresholds.window
    last: deque[Figures] = deque(maxlen=2 * window)
    num_quiet = 0
    for figures in series:
        if figures is not None:
            last.append(figures)
            before, now = list(islice(last, window)), list(islice(last, window, None))
            is_quiet = len(last) == 2 * window and _is_quiet(now, before, thresholds)
            num_quiet = num_quiet + 1 if is_quiet else 0
        told.append(num_quiet >= thresholds.num_rounds)
    return told


def site_saturated(rounds: Sequence[Mapping[str, Figures]], thresholds: Thresholds) -> bool:
    """Return whether all layers of a site that ever had figures are saturated; False if none had.

    Args:
        rounds: figures by layer, oldest first; empty where the site did not train. A layer that
            lacks where others were told had none that are defined, and is not quiet.
        thresholds: what is quiet.
    """
    layers = {layer for told in rounds for layer, figures in told.items() if figures}
    return bool(layers) and all(
        saturated([told.get(layer, {}) if told else None for told in rounds], thresholds)[-1]
        for layer in layers
    )


def federation_saturated(sites: Mapping[str, bool], share: float) -> bool:
    """Return whether at least `share` of the sites are saturated; never if there are none."""
    return bool(sites) and sum(sites.values()) >= share * len(sites) - _ROUNDING


def least_log_mag(thresholds: Thresholds) -> float:
    """Return what a smaller `log_mag` counts as, so that one frozen round does not rule a mean."""
    return thresholds.log_mag - _FAR_BELOW


def _is_quiet(now: Sequence[Figures], before: Sequence[Figures], thresholds: Thresholds) -> bool:
    floor = least_log_mag(thresholds)
    log_mag, last = _mean(now, "log_mag", floor), _mean(before, "log_mag", floor)
    if log_mag is None:
        return False
    if log_mag < thresholds.log_mag:
        return True
    rho = _mean(now, "rho")
    if rho is None or last is None:
        return False
    # What was sent in steps of `steady` may lie one step apart.
    return rho < thresholds.rho and abs(log_mag - last) <= thresholds.steady + _ROUNDING


def _mean(rounds: Sequence[Figures], name: str, floor: float = -math.inf) -> float | None:
    """Return the mean of a figure; None where a round lacks it."""
    values = [figures[name] for figures in rounds if name in figures]
    if len(values) < len(rounds):
        return None
    return round(sum(max(value, floor) for value in values) / len(values), DECIMALS)
