"""Distances to records: what they say, and that they are blind to what attacks see."""

import numpy as np
import pytest

from fedward.synth.evaluation.membership import membership_risks
from fedward.synth.evaluation.resemblance import Resemblance, resemblance
from fedward.synth.evaluation.trial import Trial, make_trial
from tests.synth.attacked_cohort import (
    COLUMNS,
    NUMBERS,
    gaussian_draws,
    kernel_draws,
    population,
    trial_of,
)


def found(trial: Trial, rng: np.random.Generator) -> Resemblance:
    figures = resemblance(trial, rng)
    assert figures is not None
    return figures


def test_a_copy_is_at_distance_zero_and_always_nearer_to_train() -> None:
    rng = np.random.default_rng(0)
    members = population(200, rng)
    figures = found(trial_of(members, members, rng), rng)
    assert figures.dcr.mean == pytest.approx(0, abs=1e-3)
    assert figures.nndr.median == pytest.approx(0, abs=1e-3)
    assert figures.nearer_to_train.value == 1.0
    assert figures.dcr_holdout.mean > 1


def test_fresh_patients_are_as_near_to_the_holdout_as_to_train() -> None:
    missed = 0
    for seed in range(15):
        rng = np.random.default_rng(100 + seed)
        # Many released rows: an interval over rows would be far too short.
        trial = trial_of(population(60, rng), population(600, rng), rng)
        share = found(trial, rng).nearer_to_train
        assert share.low is not None
        assert share.high is not None
        missed += not share.low <= 0.5 <= share.high
    # 1 in 20 intervals misses: more than 5 of 15 with a probability of 5e-5.
    assert missed <= 5


def test_distances_are_those_of_the_standardised_columns() -> None:
    rng = np.random.default_rng(1)
    members = population(100, rng)
    synthetic = population(30, rng)
    figures = found(trial_of(members, synthetic, rng), rng)
    mean, sd = members[list(NUMBERS)].mean(), members[list(NUMBERS)].std(ddof=0)
    train, rows = ((frame[list(NUMBERS)] - mean) / sd for frame in (members, synthetic))
    squared = ((rows.to_numpy()[:, None] - train.to_numpy()[None]) ** 2).sum(axis=2)
    ward = synthetic["ward"].to_numpy()[:, None] != members["ward"].to_numpy()[None]
    closest, second = np.sort(np.sqrt(squared + 2 * ward), axis=1)[:, :2].T
    assert figures.dcr.mean == pytest.approx(closest.mean(), rel=1e-4)
    assert figures.dcr.p05 == pytest.approx(np.quantile(closest, 0.05), rel=1e-4)
    assert figures.nndr.median == pytest.approx(np.median(closest / second), rel=1e-4)


def test_train_and_holdout_are_compared_at_equal_size() -> None:
    rng = np.random.default_rng(2)
    trial = make_trial(
        COLUMNS,
        members=population(400, rng),
        synthetic=population(400, rng),
        holdout=population(50, rng),
        reference=population(50, rng),
    )
    figures = found(trial, rng)
    assert figures.num_each == 50
    # Of 400 records the closest is nearer than of 50.
    assert figures.dcr.mean < figures.dcr_train.mean
    assert figures.dcr_train.mean == pytest.approx(figures.dcr_holdout.mean, rel=0.1)


def test_a_noisy_copy_passes_for_distant_while_its_members_are_recognised() -> None:
    rng = np.random.default_rng(3)
    members = population(200, rng)
    trial = trial_of(members, kernel_draws(members, 4000, rng, noise=1.6), rng)
    figures = found(trial, rng)
    # Farther from training rows than patients are from each other: the usual test is passed.
    assert figures.dcr.mean > figures.patients_to_patients.mean
    risk = next(r for r in membership_risks(trial) if (r.name, r.group) == ("density_auc", "all"))
    assert risk.is_leak


def test_a_parametric_generator_is_about_as_near_to_both() -> None:
    rng = np.random.default_rng(4)
    members = population(400, rng)
    share = found(trial_of(members, gaussian_draws(members, 800, rng), rng), rng).nearer_to_train
    assert share.value == pytest.approx(0.5, abs=0.08)


def test_too_few_rows_have_no_figures() -> None:
    rng = np.random.default_rng(5)
    assert resemblance(trial_of(population(100, rng), population(19, rng), rng), rng) is None
