"""Early stop: end a run when a figure of the evaluation has stopped getting better."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fedward.common.config.monitor import StopConfig
from fedward.common.metrics import lower_is_better
from fedward.server.checkpoint import Progress


def mean_over_sites(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the unweighted mean of each figure over the sites where it is defined."""
    values: dict[str, list[float]] = {}
    for of_site in figures:
        for name, value in of_site.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def update_patience(
    progress: Progress, stop: StopConfig | None, figures: Mapping[str, float | None]
) -> Progress:
    """Return `progress` with the best value so far and the evaluations since then.

    A loss is better when lower, every other figure when higher. An undefined figure counts as
    no improvement.
    """
    if stop is None:
        return progress
    value = figures.get(stop.metric)
    sign = -1.0 if lower_is_better(stop.metric) else 1.0
    best = progress.best_value
    if value is not None and (best is None or sign * (value - best) > stop.min_delta):
        return replace(progress, best_value=value, evaluations_without_gain=0)
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1)
