"""Is it worth joining? Per hospital: the federated model against training alone, in words.

Two models are called different only where the 95 % interval of their difference leaves out 0.
In a single run that interval comes from the two figures' own (`intervals.difference`: too wide
rather than too narrow); with repetitions it is the paired t interval over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedward.common.intervals import difference, paired_interval, site_mean
from fedward.common.metrics import lower_is_better
from fedward.common.task import Metric
from fedward.server.report.record import Arm, RunRecord

Answer = Literal["better", "worse", "unclear", "unknown"]
WORDS: dict[Answer, str] = {
    "better": "Better together",
    "worse": "Better alone",
    "unclear": "No clear difference",
    "unknown": "Cannot be said",
}
NOT_RUN = Metric(None, reason="this baseline was not run")


@dataclass(frozen=True)
class Comparison:
    """One hospital (or the mean of all) in three ways of training."""

    site: str
    num_test: int | None
    federated: Metric
    local: Metric
    pooled: Metric
    gain: Metric
    """Federated minus local, turned so that above 0 is better."""
    to_pooled: Metric
    """Federated minus pooled, turned likewise."""

    @property
    def answer(self) -> Answer:
        """Return what the interval of the gain allows to say."""
        if self.gain.value is None or self.gain.low is None or self.gain.high is None:
            return "unknown"
        # As printed, to three decimals: nobody should read "better" beside [0.000, 0.213].
        if round(self.gain.low, 3) > 0:
            return "better"
        return "worse" if round(self.gain.high, 3) < 0 else "unclear"


def compare_sites(run: RunRecord, metric: str) -> list[Comparison]:
    """Return the comparison at each site of the run, in the run's order."""
    return [_compare(run, site, metric) for site in run.federated.sites]


def compare_mean(run: RunRecord, metric: str, sites: Sequence[Comparison]) -> Comparison:
    """Return the comparison of the means over sites.

    The gain is the mean of the sites' gains, over the sites that have both figures.
    """
    gains = [c.gain for c in sites if c.gain.value is not None]
    to_pooled = [c.to_pooled for c in sites if c.to_pooled.value is not None]
    missing = Metric(None, reason="no site has both figures")
    return Comparison(
        site="Mean over sites",
        num_test=None,
        federated=run.federated.overall.get(metric, missing),
        local=_overall(run, "local", metric),
        pooled=_overall(run, "pooled", metric),
        gain=(_repeated_mean(run, "local", metric) or site_mean(gains)) if gains else missing,
        to_pooled=(
            (_repeated_mean(run, "pooled", metric) or site_mean(to_pooled))
            if to_pooled
            else missing
        ),
    )


def headline(sites: Sequence[Comparison], mean: Comparison | None) -> str:
    """Return a sentence that counts the answers, and one on their mean where that is clear."""
    over_all = {"better": " On average, joining is better.", "worse": " On average, it is worse."}
    several = mean is not None and sum(c.answer != "unknown" for c in sites) > 1
    return _counted(sites) + (over_all.get(mean.answer, "") if mean and several else "")


def _counted(sites: Sequence[Comparison]) -> str:
    total = len(sites)
    better, worse, unclear, unknown = (
        sum(c.answer == answer for c in sites)
        for answer in ("better", "worse", "unclear", "unknown")
    )
    if total == 0 or unknown == total:
        return "This run cannot say: no hospital has figures with and without the others."
    parts = [
        (better, "joining is clearly better"),
        (worse, "joining is clearly worse"),
        (unclear, "there is no clear difference"),
        (unknown, "it cannot be said"),
    ]
    said = [f"for {count:,} {words}" for count, words in parts if count]
    hospitals = f"{total:,} hospital{'' if total == 1 else 's'}"
    if len(said) == 1:
        words = next(words for count, words in parts if count)
        return f"For {'all ' if total > 1 else 'the '}{hospitals.removeprefix('1 ')}, {words}."
    return f"Of {hospitals}: {', '.join(said[:-1])} and {said[-1]}."


def _compare(run: RunRecord, site: str, metric: str) -> Comparison:
    ours = _of_site(run.federated, site, metric)
    local = _of_site(run.baselines.get("local"), site, metric)
    pooled = _of_site(run.baselines.get("pooled"), site, metric)
    return Comparison(
        site=site,
        num_test=run.federated.sites[site].num_test,
        federated=ours,
        local=local,
        pooled=pooled,
        gain=_gain(run, site, metric, "local", ours, local),
        to_pooled=_gain(run, site, metric, "pooled", ours, pooled),
    )


def _gain(  # noqa: PLR0913 - one figure in two ways of training
    run: RunRecord, site: str, metric: str, baseline: str, ours: Metric, other: Metric
) -> Metric:
    pairs = [
        (_of_site(r.federated, site, metric), _of_site(r.baselines.get(baseline), site, metric))
        for r in run.repeats
    ]
    return _paired(pairs, metric) or _turned(difference(ours, other), metric)


def _repeated_mean(run: RunRecord, baseline: str, metric: str) -> Metric | None:
    """Return the gain of the mean over sites, paired by repetition; None for a single run."""
    gains = []
    for repeat in run.repeats:
        at_sites = [
            difference(
                _of_site(repeat.federated, site, metric),
                _of_site(repeat.baselines.get(baseline), site, metric),
            )
            for site in repeat.federated.sites
        ]
        gains.append((site_mean([g for g in at_sites if g.value is not None]), Metric(0.0)))
    return _paired(gains, metric)


def _paired(pairs: Sequence[tuple[Metric, Metric]], metric: str) -> Metric | None:
    """Return the paired interval; None where fewer than two repetitions have both figures."""
    both = [(a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
    if len(both) < 2:
        return None
    return _turned(paired_interval([a for a, _ in both], [b for _, b in both]), metric)


def _turned(gain: Metric, metric: str) -> Metric:
    """Return the difference so that above 0 is better."""
    if not lower_is_better(metric) or gain.value is None:
        return gain
    low, high = gain.low, gain.high
    if low is None or high is None:
        return Metric(-gain.value, n=gain.n)
    return Metric(-gain.value, -high, -low, n=gain.n)


def _of_site(arm: Arm | None, site: str, metric: str) -> Metric:
    if arm is None or site not in arm.sites:
        return NOT_RUN
    return arm.sites[site].metrics.get(metric, Metric(None, reason="not reported"))


def _overall(run: RunRecord, baseline: str, metric: str) -> Metric:
    arm = run.baselines.get(baseline)
    return NOT_RUN if arm is None else arm.overall.get(metric, NOT_RUN)
