"""The figures of a classifier at one site, each with its 95 % interval and n.

| figure | interval |
|---|---|
| auroc | score interval with Hanley and McNeil's variance: Newcombe 2006, Statistics in Medicine 25:559-573, method 5 |
| auprc | average precision; binomial variance over the positive patients (Boyd, Eng and Page 2013, ECML PKDD), as a score interval |
| brier | normal interval of the mean squared error |
| ece | conservative; see `calibration_error` |
| f1 | Wilson on TP / (TP + FP + FN), of which f1 is a monotone function |
| sensitivity, specificity, precision, accuracy | Wilson 1927 |

All are closed forms: no resampling, so a figure costs microseconds and never changes between runs.
A figure that is undefined says why and is never NaN. scikit-learn computes the same values in the
tests; it is not imported here because its metrics import pandas, which a server must not.

Shapes: N patients, C classes.
"""  # noqa: E501 - a table

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from fedward.common.intervals import wilson, z_value
from fedward.common.task import Metric

Floats = npt.NDArray[np.float64]
BINARY_METRICS = (
    "auroc",
    "auprc",
    "brier",
    "ece",
    "f1",
    "sensitivity",
    "specificity",
    "precision",
    "accuracy",
)
MULTICLASS_METRICS = ("auroc", "f1", "accuracy")
VALIDATION_LOSS = "validation_loss"
"""On patients that are neither trained on nor tested on: what a run may be steered by."""
_LOWER = frozenset({"brier", "ece", "loss", "train_loss", "eval_loss", VALIDATION_LOSS})
_LOWER_OF_MASKS = ("hd95_mm", "hd95_px", "false_lesions", "num_prediction_empty")
_UNBOUNDED = (*_LOWER_OF_MASKS, "num_truth_empty")
THRESHOLD = 0.5
ROOT_GAP = 1e-9


def lower_is_better(name: str) -> bool:
    """Return whether a smaller value of a figure is a better one; also `hd95_mm.kidney`."""
    return name in _LOWER or name.partition(".")[0] in _LOWER_OF_MASKS


def highest_of(name: str) -> float:
    """Return the largest value that a figure can have."""
    return math.inf if name.partition(".")[0] in _UNBOUNDED else 1.0


@dataclass(frozen=True)
class CalibrationCurve:
    """Mean predicted probability, observed share of positives and patients, per bin."""

    predicted: list[float]
    observed: list[float]
    n: list[int]


def binary_metrics(
    label: npt.NDArray[Any], probability: npt.NDArray[np.floating[Any]]
) -> dict[str, Metric]:
    """Return every figure of `BINARY_METRICS`; yes-or-no figures count p >= 0.5 as positive.

    Args:
        label: (N,) 0 or 1.
        probability: (N,) of class 1. Where any is NaN or infinite, every figure is undefined.

    Raises:
        ValueError: shapes differ, a label is not 0 or 1, a probability is outside [0, 1].
    """
    y, p = np.asarray(label), np.asarray(probability, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"label {y.shape} and probability {p.shape} must both be (N,)")
    reason = _unusable(p)
    if reason is not None:
        return dict.fromkeys(BINARY_METRICS, Metric(None, n=len(y), reason=reason))
    if not np.isin(y, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    positive = y == 1
    return {
        "auroc": auroc(positive, p),
        "auprc": auprc(positive, p),
        "brier": _brier(positive, p),
        "ece": calibration_error(positive, p),
        **_at_threshold(positive, p >= THRESHOLD),
    }


def multiclass_metrics(
    label: npt.NDArray[Any], probability_NC: npt.NDArray[np.floating[Any]]
) -> dict[str, Metric]:
    """Return macro one-vs-rest AUROC, macro F1 (of the most probable class) and accuracy.

    A macro figure is undefined where a class has no patient: a mean over fewer classes could not
    be compared with another site's. Its interval takes the classes as fully correlated, which
    makes it too wide rather than too narrow.

    Args:
        label: (N,) class index, 0 .. C - 1.
        probability_NC: (N, C) of each class.

    Raises:
        ValueError: shapes do not fit, or a label is no class.
    """
    y, p_NC = np.asarray(label), np.asarray(probability_NC, dtype=np.float64)
    if p_NC.ndim != 2 or y.shape != p_NC.shape[:1]:
        raise ValueError(f"label {y.shape} and probability {p_NC.shape} must be (N,) and (N, C)")
    reason = _unusable(p_NC)
    if reason is not None:
        return dict.fromkeys(MULTICLASS_METRICS, Metric(None, n=len(y), reason=reason))
    num_classes = p_NC.shape[1]
    if not np.isin(y, np.arange(num_classes)).all():
        raise ValueError(f"a label is not one of the {num_classes} classes")
    predicted = p_NC.argmax(axis=1)
    return {
        "auroc": _macro(y, num_classes, lambda c: auroc(y == c, p_NC[:, c])),
        "f1": _macro(y, num_classes, lambda c: _at_threshold(y == c, predicted == c)["f1"]),
        "accuracy": _proportion(int((y == predicted).sum()), len(y), ""),
    }


def auroc(positive: npt.NDArray[np.bool_], score: Floats) -> Metric:
    """Return the area under the ROC curve; ties count half.

    The interval holds every area A whose own standard error reaches from A to the estimate, with
    the symmetrised Hanley-McNeil variance; so it stays inside [0, 1], also at an estimate of 1.
    """
    n, n_pos = len(score), int(positive.sum())
    n_neg = n - n_pos
    if n_pos == 0 or n_neg == 0:
        return Metric(None, n=n, reason="one class")
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    midrank = (np.cumsum(count) - (count - 1) / 2)[group]
    area = (float(midrank[positive].sum()) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)

    def variance(a: float) -> float:
        pairs = (n / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return a * (1 - a) * (1 + pairs) / (n_pos * n_neg)

    def excess(a: float) -> float:
        return (area - a) ** 2 - z_value() ** 2 * variance(a)

    # At an estimate of 0 or 1 that end is itself a root: the limit is the other one.
    low = 0.0 if area == 0 else float(brentq(excess, 0.0, min(area, 1 - ROOT_GAP)))
    high = 1.0 if area == 1 else float(brentq(excess, max(area, ROOT_GAP), 1.0))
    return Metric(area, low, high, n=n)


def auprc(positive: npt.NDArray[np.bool_], score: Floats) -> Metric:
    """Return the average precision: precision at each distinct score, weighted by recall gained.

    Its chance level is the share of positives, not 0.5.
    """
    n, n_pos = len(score), int(positive.sum())
    if n_pos in (0, n):
        return Metric(None, n=n, reason="one class")
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    value = float(np.sum(np.diff(hits, prepend=0) * precision)) / n_pos
    low, high = wilson(value * n_pos, n_pos)
    return Metric(value, low, high, n=n)


def calibration_error(positive: npt.NDArray[np.bool_], p: Floats) -> Metric:
    """Return the expected calibration error over 10 bins of equal mass.

    Bins of equal mass: Nguyen and O'Connor 2015, arXiv:1508.05154. The estimate of a perfect
    model is above 0 by chance, by up to b = sqrt(2 / pi) * sum w_k s_k, where bin k holds a share
    w_k of the patients and its gap has standard error s_k. Ours: the interval runs from
    `estimate - b - z S` to `estimate + z S` with S^2 = sum (w_k s_k)^2, and is conservative.
    """
    n = len(p)
    curve = calibration_curve(positive, p)
    bins = np.array(curve.n, dtype=np.float64)
    observed, weight = np.array(curve.observed), bins / n
    value = float(np.sum(weight * np.abs(observed - np.array(curve.predicted))))
    # One patient more of each class: a bin without events is not certain.
    smoothed = (observed * bins + 1) / (bins + 2)
    errors = weight * np.sqrt(smoothed * (1 - smoothed) / bins)
    bias = math.sqrt(2 / math.pi) * float(errors.sum())
    noise = z_value() * float(np.sqrt(np.sum(errors**2)))
    return Metric(value, max(0.0, value - bias - noise), min(1.0, value + noise), n=n)


def calibration_curve(
    positive: npt.NDArray[np.bool_], p: Floats, num_bins: int = 10
) -> CalibrationCurve:
    """Return predicted against observed in bins of equal mass, without empty bins.

    Equal probabilities share a bin, so the result does not depend on the order of the rows.
    """
    edges = np.quantile(p, np.arange(1, num_bins) / num_bins) if len(p) else np.zeros(0)
    place = np.searchsorted(edges, p, side="left")
    count = np.bincount(place, minlength=num_bins)
    full = count > 0
    predicted = np.bincount(place, weights=p, minlength=num_bins)[full] / count[full]
    observed = np.bincount(place, weights=positive, minlength=num_bins)[full] / count[full]
    return CalibrationCurve(predicted.tolist(), observed.tolist(), count[full].tolist())


def _brier(positive: npt.NDArray[np.bool_], p: Floats) -> Metric:
    squared = (p - positive) ** 2
    n, value = len(p), float(squared.mean())
    if n == 1:
        return Metric(value, n=1)
    half = z_value() * float(squared.std(ddof=1)) / math.sqrt(n)
    return Metric(value, max(0.0, value - half), min(1.0, value + half), n=n)


def _at_threshold(
    positive: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]
) -> dict[str, Metric]:
    hits, n, n_pos = int((positive & predicted).sum()), len(positive), int(positive.sum())
    rejections = int((~positive & ~predicted).sum())
    return {
        "f1": _f1(hits, n - rejections, n),
        "sensitivity": _proportion(hits, n_pos, "no positive patient"),
        "specificity": _proportion(rejections, n - n_pos, "no negative patient"),
        "precision": _proportion(hits, int(predicted.sum()), "no patient predicted positive"),
        "accuracy": _proportion(hits + rejections, n, ""),
    }


def _f1(hits: int, involved: int, n: int) -> Metric:
    """Return 2 J / (1 + J) with J = TP / (TP + FP + FN) = `hits / involved`, a proportion."""
    if involved == 0:
        return Metric(None, n=n, reason="no positive patient and none predicted")
    low, high = wilson(hits, involved)
    value, low, high = (2 * j / (1 + j) for j in (hits / involved, low, high))
    return Metric(value, low, high, n=n)


def _proportion(successes: int, n: int, reason: str) -> Metric:
    if n == 0:
        return Metric(None, n=0, reason=reason)
    low, high = wilson(successes, n)
    return Metric(successes / n, low, high, n=n)


def _macro(label: npt.NDArray[Any], num_classes: int, of_class: Callable[[int], Metric]) -> Metric:
    n, present = len(label), np.unique(label)
    if len(present) == 1:
        return Metric(None, n=n, reason="one class")
    if len(present) < num_classes:
        absent = min(set(range(num_classes)) - set(present.tolist()))
        return Metric(None, n=n, reason=f"no patient of class {absent}")
    each = [of_class(c) for c in range(num_classes)]
    sides = [[m.value, m.low, m.high] for m in each]
    value, low, high = np.mean(np.array(sides, dtype=np.float64), axis=0).tolist()
    return Metric(value, low, high, n=n)


def _unusable(probability: Floats) -> str | None:
    """Return why no figure can be computed, or None."""
    if len(probability) == 0:
        return "no patients"
    if not np.isfinite(probability).all():
        return "the model's probabilities are not finite"
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError("a probability is outside [0, 1]; pass softmax or sigmoid of the logits")
    return None
