"""Early stop: what ends a run before its last round, and who may rest meanwhile.

A run ends when a figure of the evaluation has stopped getting better (`plateau`), or when the
weights of enough sites no longer go anywhere (`saturation`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from fedward.common.config.monitor import StopConfig
from fedward.common.metrics import lower_is_better
from fedward.server.checkpoint import Progress
from fedward.server.validation import Accepted


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
    if stop is None or stop.rule != "plateau":
        return progress
    value = figures.get(stop.metric)
    sign = -1.0 if lower_is_better(stop.metric) else 1.0
    best = progress.best_value
    if value is not None and (best is None or sign * (value - best) > stop.min_delta):
        return replace(progress, best_value=value, evaluations_without_gain=0)
    return replace(progress, evaluations_without_gain=progress.evaluations_without_gain + 1)


def stopped_by(
    stop: StopConfig | None, progress: Progress, *, is_saturated: bool | None
) -> Literal["plateau", "saturation"] | None:
    """Return the rule that ends the run after the round of `progress`; None: it goes on.

    Args:
        stop: of the run.
        progress: after a round, with its evaluation.
        is_saturated: the federation, after that round; None where nobody can tell.
    """
    if stop is None:
        return None
    if stop.rule == "plateau":
        return "plateau" if progress.evaluations_without_gain >= stop.patience else None
    return "saturation" if stop.action == "end" and is_saturated else None


def choose_resting(
    entitled: Mapping[str, tuple[int, int]], sampled: Collection[str], *, min_replies: int
) -> list[str]:
    """Return the sites that rest in a round, sorted; at least `min_replies` of `sampled` do not.

    Where not all may rest, those do that trained longest ago, as they are in the middle of a
    rest; after them those that have rested least.

    Args:
        entitled: by site that may rest now, the last round in which it trained and the number of
            rounds that it has rested so far.
        sampled: the sites of this round.
        min_replies: fewest sites to be asked.
    """
    candidates = sorted((claim, site) for site, claim in entitled.items() if site in sampled)
    room = max(len(sampled) - min_replies, 0)
    return sorted(site for _, site in candidates[:room])


def mean_validation_loss(replies: Sequence[Accepted]) -> float | None:
    """Return the mean over all validation patients of the sites; None where there are none."""
    found = [reply.validation for reply in replies if reply.validation is not None]
    total = sum(one.num_examples for one in found)
    return sum(one.loss * one.num_examples for one in found) / total if total else None
