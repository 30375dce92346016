"""AUROCs of several models on the same patients, with intervals over patients and over seeds.

The mean over S seeds (and L learners) is uncertain for two reasons: other patients might have
been tested, and other seeds drawn. The first is DeLong's variance of the *mean*: each patient's
influences are averaged over the models before they are squared, so that models that err on the
same patients do not count as independent. The second is Student's interval of the seeds' means.
The two half-widths are added in squares (ours). With one seed the interval is of patients only.

Intervals over seeds alone, as in the paper's tables, say nothing of other patients: three
synthetic tables that are tested on the same 44 septic patients agree far better than two
hospitals would.

Shapes: N test patients, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from fedward.common.intervals import mean_interval, z_value
from fedward.common.metrics import auroc
from fedward.common.task import Metric

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Area:
    """The AUROC of one model on N patients; macro one-vs-rest where there are several classes."""

    metric: Metric
    """With the interval over patients (Hanley and McNeil, as in `fedward.common.metrics`)."""
    influence_N: Floats
    """(N,) how far each patient moves it; the squares sum to DeLong's variance."""


def undefined(reason: str, n: int) -> Area:
    """Return an area that is not there, and why."""
    return Area(Metric(None, n=n, reason=reason), np.zeros(n))


def area(code_N: Codes, score_NC: Floats) -> Area:
    """Return the AUROC of `score_NC`; undefined where a class has fewer than two patients.

    Args:
        code_N: (N,) classes, 0 to C - 1.
        score_NC: (N, C) per class, higher where it is more likely. With two classes the second
            column is used, as a macro mean of both would be the same.

    Source: macro mean as Hand and Till 2001 describe it, one class against all others; per class
        the influences of DeLong, DeLong and Clarke-Pearson 1988.
    """
    n, num_classes = len(code_N), score_NC.shape[1]
    sizes = np.bincount(code_N, minlength=num_classes)
    if np.count_nonzero(sizes) < 2:
        return undefined("one class among the test patients", n)
    if sizes.min() < 2:
        return undefined(f"{sizes.min()} test patients of a class", n)
    counted = range(1, 2) if num_classes == 2 else range(num_classes)
    each = [auroc(code_N == c, score_NC[:, c]) for c in counted]
    influences = [_influence(code_N == c, score_NC[:, c]) for c in counted]
    sides = np.array([[m.value, m.low, m.high] for m in each], dtype=np.float64)
    value, low, high = sides.mean(axis=0).tolist()
    return Area(Metric(value, low, high, n=n), np.mean(influences, axis=0))


def mean_area(areas: Sequence[Sequence[Area]]) -> Metric:
    """Return the mean over seeds and learners; undefined where one of them is.

    Args:
        areas: per seed, one per learner, all on the same patients.
    """
    missing = _first_missing(areas)
    if missing is not None:
        return missing
    metrics = [one.metric for seed in areas for one in seed]
    sides = np.array([[m.value, m.low, m.high] for m in metrics], dtype=np.float64)
    value, low, high = sides.mean(axis=0).tolist()
    seeds = _half_over_seeds([_seed_mean(seed) for seed in areas])
    return Metric(
        value,
        max(0.0, value - math.hypot(value - low, seeds)),
        min(1.0, value + math.hypot(high - value, seeds)),
        n=metrics[0].n,
    )


def mean_difference(first: Sequence[Sequence[Area]], second: Sequence[Sequence[Area]]) -> Metric:
    """Return the mean of first minus second, paired by seed, by learner and by patient.

    Args:
        first: per seed, one per learner, all on the same patients.
        second: the same seeds, learners and patients.
    """
    missing = _first_missing(first) or _first_missing(second)
    if missing is not None:
        return missing
    gaps = [_seed_mean(a) - _seed_mean(b) for a, b in zip(first, second, strict=True)]
    value = float(np.mean(gaps))
    influence_N = _mean_influence(first) - _mean_influence(second)
    patients = z_value() * math.sqrt(float(influence_N @ influence_N))
    half = math.hypot(patients, _half_over_seeds(gaps))
    return Metric(value, max(-1.0, value - half), min(1.0, value + half), n=len(influence_N))


def _influence(positive: npt.NDArray[np.bool_], score: Floats) -> Floats:
    """Return (N,) each patient's deviation from the AUROC, scaled by its class.

    V10 and V01 of `fedward.common.delong`; sum of squares = cov(V10) / m + cov(V01) / n.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    among_all = rankdata(score)
    own = np.empty_like(among_all)
    own[positive], own[~positive] = rankdata(score[positive]), rankdata(score[~positive])
    placement = np.where(positive, (among_all - own) / n, 1 - (among_all - own) / m)
    deviation = placement - placement[positive].mean()
    scale = np.where(positive, m * (m - 1), n * (n - 1))
    influence: Floats = deviation / np.sqrt(scale)
    return influence


def _mean_influence(areas: Sequence[Sequence[Area]]) -> Floats:
    each = [one.influence_N for seed in areas for one in seed]
    mean: Floats = np.mean(each, axis=0)
    return mean


def _seed_mean(areas: Sequence[Area]) -> float:
    return float(np.mean([one.metric.value for one in areas]))


def _half_over_seeds(values: Sequence[float]) -> float:
    found = mean_interval(values)
    if found.high is None or found.value is None:
        return 0.0
    return found.high - found.value


def _first_missing(areas: Sequence[Sequence[Area]]) -> Metric | None:
    missing = (one.metric for seed in areas for one in seed if one.metric.value is None)
    return next(missing, None)
