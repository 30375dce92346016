"""Figures against scikit-learn, and their intervals against repeated sampling."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from fedward.common.metrics import (
    BINARY_METRICS,
    auroc,
    binary_metrics,
    calibration_curve,
    multiclass_metrics,
)
from fedward.common.task import Metric


def draw(
    n: int, seed: int, *, mean: float = -1.0, stretch: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities; calibrated where `stretch` is 1."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(mean, 1.5, n)
    label = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    return label, 1 / (1 + np.exp(-stretch * logit))


def whole(metric: Metric) -> tuple[float, float, float]:
    """Return value, low and high, all of which must be there."""
    assert metric.value is not None
    assert metric.low is not None
    assert metric.high is not None
    return metric.value, metric.low, metric.high


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 12])  # one decimal: many ties
def test_every_figure_equals_that_of_scikit_learn(seed: int, decimals: int) -> None:
    label, probability = draw(203, seed)
    probability = probability.round(decimals)
    predicted = probability >= 0.5
    expected = {
        "auroc": roc_auc_score(label, probability),
        "auprc": average_precision_score(label, probability),
        "brier": brier_score_loss(label, probability),
        "f1": f1_score(label, predicted),
        "sensitivity": recall_score(label, predicted),
        "specificity": recall_score(label, predicted, pos_label=0),
        "accuracy": accuracy_score(label, predicted),
    }
    measured = {name: m.value for name, m in binary_metrics(label, probability).items()}
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_macro_figures_equal_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    probability = generator.dirichlet(np.ones(4), size=150)
    label = np.array([generator.choice(4, p=row) for row in probability])
    predicted = probability.argmax(axis=1)
    measured = multiclass_metrics(label, probability)
    expected = {
        "auroc": roc_auc_score(label, probability, multi_class="ovr", average="macro"),
        "f1": f1_score(label, predicted, average="macro"),
        "accuracy": accuracy_score(label, predicted),
    }
    assert {name: m.value for name, m in measured.items()} == pytest.approx(expected, abs=1e-12)
    for metric in measured.values():
        value, low, high = whole(metric)
        assert low < value < high
        assert metric.n == 150


def test_calibration_error_by_hand() -> None:
    # Two bins by hand: predicted .2 and observed 1/4, predicted .9 and observed 3/4; 4 rows each.
    label = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    probability = np.array([0.2] * 4 + [0.9] * 4)
    assert binary_metrics(label, probability)["ece"].value == pytest.approx((0.05 + 0.15) / 2)
    curve = calibration_curve(label == 1, probability)
    assert curve.predicted == pytest.approx([0.2, 0.9])
    assert (curve.observed, curve.n) == ([0.25, 0.75], [4, 4])


def test_the_calibration_curve_does_not_depend_on_the_order_of_rows() -> None:
    label, probability = draw(300, 1)
    probability = probability.round(1)
    order = np.random.default_rng(0).permutation(300)
    here = calibration_curve(label == 1, probability)
    there = calibration_curve(label[order] == 1, probability[order])
    assert here.n == there.n
    assert here.observed == pytest.approx(there.observed)
    assert sum(here.n) == 300


def test_the_auroc_interval_solves_newcombes_equation() -> None:
    # Written out for an estimate of 1 and m = n = 10: the lower limit solves
    # (1 - A)^2 = z^2 A (1 - A) {1 + 9 [(1 - A)/(2 - A) + A/(1 + A)]} / 100.
    metric = binary_metrics(np.repeat([0, 1], 10), np.repeat([0.1, 0.9], 10))["auroc"]
    value, a, high = whole(metric)
    assert (value, high) == (1.0, 1.0)
    spread = a * (1 - a) * (1 + 9 * ((1 - a) / (2 - a) + a / (1 + a))) / 100
    assert (1 - a) ** 2 == pytest.approx(1.959964**2 * spread, rel=1e-5)


def test_one_class_has_no_auroc_and_says_so() -> None:
    metrics = binary_metrics(np.zeros(16, np.int64), np.linspace(0.1, 0.9, 16))
    assert metrics["auroc"] == metrics["auprc"] == Metric(None, n=16, reason="one class")
    assert metrics["sensitivity"] == Metric(None, n=0, reason="no positive patient")
    assert metrics["specificity"].value == 0.5
    none_predicted = binary_metrics(np.zeros(4, np.int64), np.full(4, 0.1))["f1"]
    assert none_predicted.value is None
    assert none_predicted.reason == "no positive patient and none predicted"


@pytest.mark.parametrize(
    ("label", "probability"),
    [
        (np.zeros(0, np.int64), np.zeros(0)),
        (np.array([1]), np.array([1.0])),
        (np.array([0, 1]), np.array([0.5, 0.5])),
        (np.array([0, 1, 1]), np.array([0.2, np.nan, 0.4])),
        (np.array([0, 1, 1]), np.array([0.2, np.inf, 0.4])),
        (np.array([1, 0]), np.array([0.0, 1.0])),
        (np.ones(5, np.int64), np.ones(5)),
    ],
)
def test_no_figure_is_ever_nan(label: np.ndarray, probability: np.ndarray) -> None:
    for metric in binary_metrics(label, probability).values():
        assert (metric.value is None) == (metric.reason is not None)
        numbers = [x for x in (metric.value, metric.low, metric.high) if x is not None]
        assert all(math.isfinite(x) and 0 <= x <= 1 for x in numbers)
        if len(numbers) == 3:
            value, low, high = whole(metric)
            assert low <= value <= high


def test_a_diverged_model_has_a_reason_and_no_figures() -> None:
    metrics = binary_metrics(np.array([0, 1]), np.array([0.5, np.nan]))
    assert {m.reason for m in metrics.values()} == {"the model's probabilities are not finite"}
    assert set(metrics) == set(BINARY_METRICS)


def test_a_macro_figure_needs_every_class() -> None:
    probability = np.full((6, 3), 1 / 3)
    two_of_three = multiclass_metrics(np.array([0, 0, 2, 2, 0, 2]), probability)
    assert two_of_three["auroc"] == Metric(None, n=6, reason="no patient of class 1")
    assert two_of_three["accuracy"].value == 0.5
    assert multiclass_metrics(np.zeros(6, np.int64), probability)["f1"].reason == "one class"


@pytest.mark.parametrize(
    ("label", "probability", "message"),
    [
        ([0, 2], [0.1, 0.2], "neither 0 nor 1"),
        ([0, 1], [0.1, 1.2], "outside"),
        ([0, 1], [0.1], "must both be"),
    ],
)
def test_misuse_is_an_error(label: list[int], probability: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        binary_metrics(np.array(label), np.array(probability))


def coverage(n: int, repetitions: int, stretch: float) -> dict[str, float]:
    """Return how often each interval holds the figure of 400,000 patients."""
    truth = {
        name: whole(metric)[0]
        for name, metric in binary_metrics(*draw(400_000, 999, stretch=stretch)).items()
    }
    inside: dict[str, list[bool]] = {name: [] for name in truth}
    for seed in range(repetitions):
        for name, metric in binary_metrics(*draw(n, seed, stretch=stretch)).items():
            if metric.value is not None:
                _, low, high = whole(metric)
                inside[name].append(low <= truth[name] <= high)
    return {name: float(np.mean(hits)) for name, hits in inside.items()}


def test_intervals_of_a_small_site_cover_the_truth() -> None:
    # A true coverage of 93 % falls below 90 % of 400 draws with probability 0.01 per figure.
    assert min(coverage(100, 400, stretch=1.0).values()) >= 0.90


@pytest.mark.parametrize("stretch", [1.0, 1.6])
def test_intervals_cover_at_their_stated_rate(stretch: float) -> None:
    # A true 95 % falls outside 92.5-97.5 % of 2,000 draws with probability 3e-7 per figure;
    # average precision and calibration error are conservative, so have only a lower bound.
    rates = coverage(200, 2000, stretch)
    assert min(rates.values()) >= 0.925, rates
    for name in ("auroc", "sensitivity", "specificity", "accuracy", "f1", "brier"):
        assert rates[name] <= 0.975, rates


@pytest.mark.parametrize(("n", "limit_s"), [(100, 0.005), (20_000, 0.3)])
def test_figures_are_quick(n: int, limit_s: float) -> None:
    label, probability = draw(n, 1)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        binary_metrics(label, probability)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < limit_s


def test_figures_do_not_import_a_reader_of_patients() -> None:
    code = "import sys, fedward.common.metrics; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("num_each", "low"), [(5, 0.6427), (20, 0.8987), (200, 0.9903)])
def test_a_perfect_ranking_of_few_patients_is_not_certain(num_each: int, low: float) -> None:
    score = np.arange(2 * num_each, dtype=np.float64)
    positive = score >= num_each
    perfect, inverted = auroc(positive, score), auroc(positive, -score)
    assert perfect.value == perfect.high == 1.0
    assert perfect.low is not None
    assert inverted.high is not None
    assert perfect.low == pytest.approx(low, abs=1e-4), "the equation on a grid of 2e6 points"
    assert inverted.high == pytest.approx(1 - perfect.low)
