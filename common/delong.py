"""Two models on the same patients: whose area under the ROC curve is larger?

DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837-845, in the fast form of Sun and Xu 2014,
IEEE Signal Processing Letters 21:1389-1393: each model is one sort, n log n instead of a comparison
of every positive with every negative patient.

With m positive scores X_i, n negative scores Y_j and psi = 1, 1/2, 0 for X_i >, =, < Y_j:

    V10(X_i) = mean_j psi(X_i, Y_j)        V01(Y_j) = mean_i psi(X_i, Y_j)
    AUROC = mean_i V10(X_i)                cov = cov(V10) / m + cov(V01) / n

where the covariances are over the two models. V10(X_i) is (T_i - R_i) / n with the midranks T among
all scores and R among the positive ones; V01 likewise.

Where patients have several rows (lesions, slices), rows are no independent draws: the deviations
of a patient's rows are summed first, (V10 - AUROC) / m and (V01 - AUROC) / n, and the covariance is
that of the patients' sums. That is Obuchowski 1997, Biometrics 53:567-578, but for factors near 1.

Limits: the size of the test is that of a normal approximation; with fewer than about 10 patients of
a class it rejects too often. It compares two trained models, not two ways of training.

Shapes: N patients, K = 2 models, M positive or negative patients.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.intervals import z_value
from fedward.common.task import Metric

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DeLong:
    """The comparison of two AUROCs; intervals are at 95 %."""

    first: Metric
    second: Metric
    difference: Metric
    """First minus second."""
    z: float | None
    """None where neither model's order of the patients differs in anything that counts."""
    p_value: float | None
    """Two-sided, of no difference."""


def delong_test(
    positive: npt.NDArray[Any],
    first: npt.NDArray[np.floating[Any]],
    second: npt.NDArray[np.floating[Any]],
    *,
    patient_id: npt.NDArray[Any] | None = None,
) -> DeLong:
    """Return both AUROCs, their difference with its interval, and the test of no difference.

    Both intervals of the single AUROCs are DeLong's too, cut to [0, 1]; they are narrower near 1
    than those of `fedward.common.metrics.auroc`, which is what a single model is reported with.

    Args:
        positive: (N,) whether the patient has the condition: bool, or 0 and 1.
        first: (N,) scores of the first model: any monotone ones, the same patients in order.
        second: (N,) scores of the second.
        patient_id: (N,) whose row it is; absent: each row is a patient. The n of all figures is
            the number of patients.

    Raises:
        ValueError: the lengths differ, a score is not finite, or a label is neither 0 nor 1.
    """
    y, scores_KN = np.asarray(positive), np.stack([first, second]).astype(np.float64)
    if y.shape != scores_KN.shape[1:]:
        raise ValueError(f"labels {y.shape} and scores {scores_KN.shape[1:]} must both be (N,)")
    if not np.isin(y, (0, 1)).all() or not np.isfinite(scores_KN).all():
        raise ValueError("labels must be 0 or 1, and scores finite")
    who = np.arange(len(y)) if patient_id is None else np.unique(patient_id, return_inverse=True)[1]
    if who.shape != y.shape:
        raise ValueError(f"labels {y.shape} and patients {who.shape} must both be (N,)")
    n = len(np.unique(who))
    if len(np.unique(y)) < 2:
        none = Metric(None, n=n, reason="one class")
        return DeLong(none, none, none, None, None)
    if n == len(y):
        area, covariance = areas_and_covariance(scores_KN[:, y == 1], scores_KN[:, y == 0])
    else:
        area, covariance = _of_patients(scores_KN, y == 1, who)
    if not np.isfinite(covariance).all():
        # One patient of a class has no spread.
        values = [Metric(float(a), n=n) for a in (*area, area[0] - area[1])]
        return DeLong(values[0], values[1], values[2], None, None)
    each = [_metric(float(area[k]), float(covariance[k, k]), n, 0.0) for k in (0, 1)]
    gap = float(area[0] - area[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # Rounding leaves a tiny variance, of either sign, where the models order patients alike.
    variance = variance if variance > 1e-15 else 0.0
    z = gap / math.sqrt(variance) if variance else None
    p_value = None if z is None else 2 * NormalDist().cdf(-abs(z))
    return DeLong(each[0], each[1], _metric(gap, variance, n, -1.0), z, p_value)


def areas_and_covariance(positive_KM: Floats, negative_KM: Floats) -> tuple[Floats, Floats]:
    """Return the models' AUROCs (K,) and the covariance (K, K) of their estimates.

    The covariance is NaN where a class has one patient only.

    Source: Sun and Xu 2014, algorithm 2.
    """
    area, of_positive_KM, of_negative_KM = _placements(positive_KM, negative_KM)
    m, n = of_positive_KM.shape[1], of_negative_KM.shape[1]
    if m == 1 or n == 1:
        return area, np.full((len(area), len(area)), np.nan)
    covariance = np.cov(of_positive_KM) / m + np.cov(of_negative_KM) / n
    return area, np.atleast_2d(covariance)


def _of_patients(
    scores_KN: Floats, positive: npt.NDArray[np.bool_], who: npt.NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Return what `areas_and_covariance` does, with patients as the independent draws."""
    area, of_positive_KM, of_negative_KM = _placements(
        scores_KN[:, positive], scores_KN[:, ~positive]
    )
    deviation_KN = np.empty_like(scores_KN)
    deviation_KN[:, positive] = (of_positive_KM - area[:, None]) / of_positive_KM.shape[1]
    deviation_KN[:, ~positive] = (of_negative_KM - area[:, None]) / of_negative_KM.shape[1]
    sums_KP = np.stack([np.bincount(who, weights=deviation) for deviation in deviation_KN])
    num_patients = sums_KP.shape[1]
    classes = (len(np.unique(who[positive])), len(np.unique(who[~positive])))
    if min(classes) == 1:
        return area, np.full((len(area), len(area)), np.nan)
    return area, sums_KP @ sums_KP.T * num_patients / (num_patients - 1)


def _placements(positive_KM: Floats, negative_KM: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the AUROCs (K,), V10 of each positive and V01 of each negative score."""
    m, n = positive_KM.shape[1], negative_KM.shape[1]
    together_KM = _midranks(np.concatenate([positive_KM, negative_KM], axis=1))
    of_positive_KM = (together_KM[:, :m] - _midranks(positive_KM)) / n
    of_negative_KM = 1 - (together_KM[:, m:] - _midranks(negative_KM)) / m
    return of_positive_KM.mean(axis=1), of_positive_KM, of_negative_KM


def _midranks(scores_KM: Floats) -> Floats:
    """Return each score's rank within its row, from 1; equal scores share the mean rank."""
    ranks = []
    for scores in scores_KM:
        _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[group])
    return np.stack(ranks)


def _metric(value: float, variance: float, n: int, lowest: float) -> Metric:
    half = z_value() * math.sqrt(max(0.0, variance))
    return Metric(value, max(lowest, value - half), min(1.0, value + half), n=n)
