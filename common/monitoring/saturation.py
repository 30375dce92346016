"""Whether layers, sites and the federation have stopped going anywhere.

Advisory: a layer that moves again is no longer saturated. Ours; the paper judges by eye.
"""

from collections.abc import Mapping, Sequence

from fedward.common.monitoring.thresholds import THRESHOLDS, UNCALIBRATED, Thresholds

__all__ = ["Thresholds", "federation_saturated", "saturated", "site_saturated", "thresholds_for"]

Figures = Mapping[str, float]

_ROUNDING = 1e-9


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
    moved went back and forth (`rho`) as much as in the round before (`steady`). A round without
    another before it is not quiet, so the third is the earliest. A round that is missing changes
    nothing, and the next is compared with the last that is there.

    Args:
        series: the figures of each round, oldest first. None: the site did not train, or told
            nothing. Of figures that lack, such as those of weights that were NaN, none is quiet.
        thresholds: what is quiet.
    """
    told: list[bool] = []
    before: Figures | None = None
    num_quiet = 0
    for figures in series:
        if figures is not None:
            is_quiet = before is not None and _is_quiet(figures, before, thresholds)
            num_quiet = num_quiet + 1 if is_quiet else 0
            before = figures
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


def _is_quiet(figures: Figures, before: Figures, thresholds: Thresholds) -> bool:
    log_mag, last = figures.get("log_mag"), before.get("log_mag")
    if log_mag is None:
        return False
    if log_mag < thresholds.log_mag:
        return True
    rho = figures.get("rho")
    if rho is None or last is None:
        return False
    # What was sent in steps of `steady` may lie one step apart.
    return rho < thresholds.rho and abs(log_mag - last) <= thresholds.steady + _ROUNDING
