"""What the first section of the report says of a figure: hospital by hospital, and on average."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedward.common.metrics import highest_of, lower_is_better
from fedward.server.report.record import RunRecord
from fedward.server.report.verdict import Comparison, compare_mean, compare_sites, headline

MAX_SHOWN_SITES = 30
MAX_EXTREMES = 5
MAX_REACH = 0.5
"""Of the strips that show gains, for figures between 0 and 1; beyond it they are cut."""
LEAST_REACH = 0.1


@dataclass(frozen=True)
class Answers:
    """One figure in three ways of training."""

    metric: str
    sites: list[Comparison]
    shown: list[Comparison]
    """All of them, or those that gain and lose most where they are many."""
    mean: Comparison
    headline: str
    lower_is_better: bool
    reach: float
    """The gain, in the figure's unit, at the ends of the strips."""


def answers(run: RunRecord) -> list[Answers]:
    """Return what is to be said of the run's headline figures; nothing where it has none."""
    return [_answers(run, metric) for metric in run.headline_metrics]


def _answers(run: RunRecord, metric: str) -> Answers:
    sites = compare_sites(run, metric)
    mean = compare_mean(run, metric, sites)
    return Answers(
        metric=metric,
        sites=sites,
        shown=_extremes(sites),
        mean=mean,
        headline=headline(sites, mean),
        lower_is_better=lower_is_better(metric),
        reach=_reach(sites, metric),
    )


def _reach(sites: Sequence[Comparison], metric: str) -> float:
    reaches = [abs(x) for c in sites for x in (c.gain.low, c.gain.high) if x is not None]
    # A figure in millimetres has no largest difference.
    limit = MAX_REACH * highest_of(metric)
    return min(max(reaches, default=LEAST_REACH), limit) or LEAST_REACH


def _extremes(sites: Sequence[Comparison]) -> list[Comparison]:
    if len(sites) <= MAX_SHOWN_SITES:
        return list(sites)
    judged = [c for c in sites if c.gain.value is not None]
    judged.sort(key=lambda c: -(c.gain.value or 0.0))
    return judged[:MAX_EXTREMES] + judged[-MAX_EXTREMES:] if judged else list(sites[:10])
