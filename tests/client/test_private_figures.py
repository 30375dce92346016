"""Figures of test patients with noise: what one patient changes, and what the noise costs."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fedward.client.privacy.figures import BINS, count_table, figures_of, noised_table
from fedward.common.metrics import binary_metrics
from fedward.common.privacy.noise import SecretNoise, SeededNoise


def cohort(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.random(count) < 0.4
    return label, 1 / (1 + np.exp(-rng.normal(np.where(label, 1.0, -1.0), 1.0)))


def test_every_patient_is_one_count_whatever_the_rows() -> None:
    label, probability = cohort(30)
    starts = torch.tensor([0, 1, 4, 4, 30])
    table = count_table(label, probability, starts)
    assert table.shape == (2, BINS)
    assert table.sum() == pytest.approx(3), "the patient without a row counts nothing"
    assert count_table(label, probability, None).sum() == 30


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, math.inf, -3.0, 7.0])
def test_one_patient_more_changes_the_table_by_one_at_most(value: float) -> None:
    label, probability = cohort(20)
    before = count_table(label, probability, None)
    after = count_table(np.append(label, True), np.append(probability, value), None)
    assert np.linalg.norm(after - before) == pytest.approx(1)
    # With several rows that fall into different bins it is less, never more.
    rows = np.append(probability, [value, 0.31, 0.93])
    starts = torch.tensor([*range(21), 23])
    many = count_table(np.append(label, [True] * 3), rows, starts)
    assert np.linalg.norm(many - before) <= 1 + 1e-12


def test_the_noise_on_each_count_has_the_deviation_that_is_paid_for() -> None:
    num_tables, deviation = 2000, 3.0
    source, zero = SecretNoise(), np.zeros((2, BINS))
    drawn = np.stack([noised_table(zero, deviation, source) for _ in range(num_tables)])
    statistic = float((drawn**2).sum()) / deviation**2
    low, high = chi2.ppf([5e-7, 1 - 5e-7], drawn.size)  # error rate 1e-6
    assert low < statistic < high


def test_without_noise_the_figures_are_those_of_the_binned_predictions() -> None:
    label, probability = cohort(4000)
    found = figures_of(count_table(label, probability, None), 1e-9)
    exact = binary_metrics(label.astype(int), probability)
    for name in ("auroc", "accuracy", "brier"):
        assert found[name].value == pytest.approx(exact[name].value, abs=0.01), name
    assert found["auroc"].n == 4000


def test_intervals_grow_with_the_noise_and_hold_the_true_figure() -> None:
    label, probability = cohort(400)
    exact = binary_metrics(label.astype(int), probability)["auroc"].value
    assert exact is not None
    table, widths, hits = count_table(label, probability, None), [], 0
    for deviation in (0.5, 3.0, 10.0):
        source = SeededNoise(torch.Generator().manual_seed(4), dtype=torch.float64)
        found = figures_of(noised_table(table, deviation, source), deviation)["auroc"]
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
        hits += found.low <= exact <= found.high
    assert widths == sorted(widths)
    assert hits == 3


def test_noise_that_drowns_everything_says_so_instead_of_a_figure() -> None:
    found = figures_of(np.full((2, BINS), -1.0), 50.0)
    assert found["auroc"].value is None
    assert found["auroc"].reason is not None
