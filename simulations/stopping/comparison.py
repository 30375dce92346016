"""Compares the stop rules: each seed is judged by rules that were tuned on the other seeds.

The budget of a seed is 1.5 times the best round by validation loss, mean of the *other* seeds, so
that nobody gains by stopping a run that was planned far too long. A rule is tuned to the setting
that saves most on the other seeds while losing at most `TOLERANCE_POINTS` of the metric there on
average (their budgets leave out the seed under judgement as well). What a rule saves is counted
in local epochs of all sites, in percent of the budget; what it loses in points: 100 times the
metric after the budget less the metric where it stopped, both on the test patients.

Intervals are Student's t over seeds, paired where rules are compared. Seeds share their patients:
the intervals are of other splits of the same patients, and too narrow for other patients.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.metrics import lower_is_better
from fedward.common.task import Metric
from fedward.simulations.stopping.recording import Recording
from fedward.simulations.stopping.rules import FULL, PLATEAU, RULES, Knobs, Rule

BUDGET_FACTOR = 1.5
TOLERANCE_POINTS = 0.5
GOAL_PERCENT = 30.0
ORACLE, RESTS = "oracle", "saturation-rests"


@dataclass(frozen=True)
class Stop:
    """What one rule did with one seed.

    Args:
        seed: which.
        stopped_at: rounds run; the budget where it did not fire.
        saved_percent: local epochs saved, of the budget's.
        lost_points: of the primary metric; below 0: it gained.
        other_points: of the other metrics, by name.
        knobs: the setting, tuned on the other seeds; None: tuned to never fire.
    """

    seed: int
    stopped_at: int
    saved_percent: float
    lost_points: float
    other_points: Mapping[str, float] = field(default_factory=dict)
    knobs: Knobs | None = None


@dataclass(frozen=True)
class Row:
    """One rule over all seeds."""

    name: str
    title: str
    stops: Sequence[Stop]
    saved_by_plateau: Sequence[float]
    """Percent, per seed, as `stops`."""

    @cached_property
    def stopped_at(self) -> Metric:
        """Rounds run."""
        return mean_interval([stop.stopped_at for stop in self.stops])

    @cached_property
    def saved(self) -> Metric:
        """Percent of the budget's local epochs."""
        return mean_interval([stop.saved_percent for stop in self.stops])

    @cached_property
    def beyond(self) -> Metric:
        """Percentage points saved beyond what the tuned plateau saves, paired by seed."""
        return paired_interval([stop.saved_percent for stop in self.stops], self.saved_by_plateau)

    @cached_property
    def lost(self) -> Metric:
        """Points of the primary metric."""
        return mean_interval([stop.lost_points for stop in self.stops])

    def lost_of(self, metric: str) -> Metric:
        """Points of another metric, over the seeds where it is defined."""
        return mean_interval(
            [stop.other_points[metric] for stop in self.stops if metric in stop.other_points]
        )


class Comparison:
    """All rules over all recordings.

    Args:
        recordings: one per seed, at least three.
        rests: what really happened to each seed when saturated sites rested; None: not run.
    """

    def __init__(
        self, recordings: Sequence[Recording], rests: Sequence[Stop] | None = None
    ) -> None:
        self.recordings = recordings
        self._fired: dict[tuple[str, int, int], int | None] = {}
        seeds = range(len(recordings))
        self.budgets = [self.budget(set(seeds) - {seed}) for seed in seeds]
        stops = {rule.name: [self._judged(rule, seed) for seed in seeds] for rule in RULES}
        stops[ORACLE] = [self._oracle(seed) for seed in seeds]
        titles = {rule.name: rule.title for rule in RULES} | {ORACLE: "oracle (knows the test)"}
        if rests is not None:
            stops[RESTS] = list(rests)
            titles[RESTS] = "saturated sites rest (trained anew)"
        plateau = [stop.saved_percent for stop in stops[PLATEAU.name]]
        self.rows = {name: Row(name, titles[name], found, plateau) for name, found in stops.items()}

    def budget(self, others: set[int]) -> int:
        """Return the rounds that are planned when only `others` are known, by position."""
        best = [self.recordings[other].best_round() for other in sorted(others)]
        rounds = math.ceil(BUDGET_FACTOR * sum(best) / len(best))
        return min(rounds, self.num_recorded)

    @property
    def num_recorded(self) -> int:
        """Rounds that every seed was trained for."""
        return min(recording.num_rounds for recording in self.recordings)

    @property
    def is_cut(self) -> bool:
        """Whether a budget was as long as what was trained: it may have been longer."""
        return max(self.budgets) >= self.num_recorded

    def _judged(self, rule: Rule, seed: int) -> Stop:
        others = set(range(len(self.recordings))) - {seed}
        knobs = rule.settings[0] if len(rule.settings) == 1 else self._tuned(rule, others)
        budget = self.budgets[seed]
        if knobs is None:
            return self._stop(seed, budget, budget=budget, knobs=None)
        fired = self._fires(rule, rule.settings.index(knobs), seed)
        stopped_at = budget if fired is None else min(fired, budget)
        return self._stop(seed, stopped_at, budget=budget, knobs=knobs)

    def _tuned(self, rule: Rule, others: set[int]) -> Knobs | None:
        """Return the setting that saves most on `others` within the tolerance; None: none saves."""
        best: tuple[float, float] = (0.0, 0.0)
        chosen: Knobs | None = None
        for place, knobs in enumerate(rule.settings):
            stops = []
            for other in sorted(others):
                budget = self.budget(others - {other})
                fired = self._fires(rule, place, other)
                stopped_at = budget if fired is None else min(fired, budget)
                stops.append(self._stop(other, stopped_at, budget=budget, knobs=knobs))
            saved = sum(stop.saved_percent for stop in stops) / len(stops)
            lost = sum(stop.lost_points for stop in stops) / len(stops)
            if lost <= TOLERANCE_POINTS and (saved, -lost) > best:
                best, chosen = (saved, -lost), knobs
        return chosen

    def _fires(self, rule: Rule, place: int, seed: int) -> int | None:
        key = (rule.name, place, seed)
        if key not in self._fired:
            self._fired[key] = rule.stops(self.recordings[seed], rule.settings[place])
        return self._fired[key]

    def _oracle(self, seed: int) -> Stop:
        """Return the first round at which this seed's own test metric is within the tolerance."""
        budget = self.budgets[seed]
        stops = (
            self._stop(seed, number, budget=budget, knobs=None) for number in range(1, budget + 1)
        )
        return next(stop for stop in stops if stop.lost_points <= TOLERANCE_POINTS)

    def _stop(self, seed: int, stopped_at: int, *, budget: int, knobs: Knobs | None) -> Stop:
        recording = self.recordings[seed]
        spent = recording.client_epochs(stopped_at)
        return make_stop(
            recording,
            budget=budget,
            stopped_at=stopped_at,
            client_epochs=spent,
            figures=recording.rounds[stopped_at - 1].figures,
            knobs=knobs,
        )


def make_stop(  # noqa: PLR0913 - what was spent, and what was got for it
    recording: Recording,
    *,
    budget: int,
    stopped_at: int,
    client_epochs: int,
    figures: Mapping[str, float],
    knobs: Knobs | None = None,
) -> Stop:
    """Return what was saved and lost against the whole budget of a recording.

    Args:
        recording: of the seed.
        budget: rounds.
        stopped_at: rounds run.
        client_epochs: local epochs of all sites until then.
        figures: of the model there.
        knobs: of the rule.
    """
    whole = recording.rounds[budget - 1].figures
    names = (recording.primary_metric, *recording.other_metrics)
    points = {
        name: 100 * (figures[name] - whole[name]) * (1 if lower_is_better(name) else -1)
        for name in names
        if name in figures and name in whole
    }
    return Stop(
        seed=recording.seed,
        stopped_at=stopped_at,
        saved_percent=100 * (1 - client_epochs / recording.client_epochs(budget)),
        lost_points=points.pop(recording.primary_metric),
        other_points=points,
        knobs=knobs,
    )


def best_rule(rows: Mapping[str, Row]) -> Row:
    """Return the rule that saves most while losing at most the tolerance, on average.

    Where none saves anything so, that is the whole budget.
    """
    real = [row for name, row in rows.items() if name not in {FULL.name, ORACLE}]
    allowed = [row for row in real if _value(row.lost) <= TOLERANCE_POINTS]
    best = max(allowed, key=lambda row: _value(row.saved), default=rows[FULL.name])
    return best if _value(best.saved) > 0 else rows[FULL.name]


def _value(metric: Metric) -> float:
    assert metric.value is not None
    return metric.value
