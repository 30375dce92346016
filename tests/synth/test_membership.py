"""Attacks on membership: they find what was planted, and nothing where nothing is."""

import numpy as np
import pandas as pd
import pytest

from fedward.synth.evaluation.membership import membership_risks
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.trial import Trial, make_trial
from tests.synth.attacked_cohort import (
    COLUMNS,
    gaussian_draws,
    kernel_draws,
    population,
    trial_of,
    with_gaps,
)


def figure(trial: Trial, name: str, group: str = "all") -> Risk:
    return next(r for r in membership_risks(trial) if (r.name, r.group) == (name, group))


def value(risk: Risk) -> float:
    assert risk.value is not None, risk.reason
    return risk.value


def test_a_copy_of_the_training_rows_is_recognised_nearly_always() -> None:
    rng = np.random.default_rng(0)
    members = population(400, rng)
    risks = membership_risks(trial_of(members, members, rng))
    areas = [risk for risk in risks if risk.name.endswith("_auc")]
    assert {risk.group for risk in areas} == {"all", "no sepsis", "sepsis", "outliers"}
    assert min(value(risk) for risk in areas) > 0.97
    recognised = next(risk for risk in risks if (risk.name, risk.group) == ("density_tpr", "all"))
    assert value(recognised) > 0.9


def test_patients_swapped_for_others_are_not_recognised() -> None:
    leaks, areas = 0, []
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        synthetic = kernel_draws(population(150, rng), 300, rng, noise=0.2)
        risk = figure(trial_of(population(150, rng), synthetic, rng), "density_auc")
        leaks += risk.is_leak
        areas.append(value(risk))
    # 1 in 40 intervals lies above 0.5: more than 3 of 8 with a probability of 3e-5.
    assert leaks <= 3
    # Standard error of the mean of 8 areas of 150 against 150: 0.012.
    assert np.mean(areas) == pytest.approx(0.5, abs=0.045)


def test_a_distribution_of_few_parameters_fitted_on_many_rows_tells_little() -> None:
    rng = np.random.default_rng(1)
    members = population(1000, rng)
    trial = trial_of(members, gaussian_draws(members, 2000, rng), rng)
    assert value(figure(trial, "density_auc")) < 0.55
    # The same attack on the same members: a noisy copy is found out.
    noisy = trial_of(members, kernel_draws(members, 2000, rng, noise=0.5), rng)
    assert value(figure(noisy, "density_auc")) > 0.7


def test_the_leak_of_a_kernel_density_grows_with_the_rows_released() -> None:
    rng = np.random.default_rng(2)
    members = population(200, rng)
    areas = [
        value(figure(trial_of(members, kernel_draws(members, n, rng, noise=1.0), rng), name))
        for n in (200, 4000)
        for name in ("density_auc",)
    ]
    # Standard errors are about 0.027.
    assert areas[1] > areas[0] + 0.1


def test_the_smaller_class_is_the_one_exposed_and_is_told_apart() -> None:
    # Of the rare class each patient is copied, of the other the distribution is drawn from.
    rng = np.random.default_rng(3)
    members = population(600, rng, share=0.15)
    rare = members[members["sepsis"] == 1]
    common = gaussian_draws(members[members["sepsis"] == 0], 600, rng)
    synthetic = pd.concat([common, kernel_draws(rare, 600, rng, noise=0.2)], ignore_index=True)
    trial = trial_of(members, synthetic, rng)
    assert value(figure(trial, "density_auc", "sepsis")) > 0.95
    assert value(figure(trial, "density_auc", "no sepsis")) < 0.6


def test_other_shares_of_the_classes_do_not_pass_for_membership() -> None:
    rng = np.random.default_rng(4)
    synthetic = kernel_draws(population(300, rng), 600, rng, noise=0.2)
    trial = make_trial(
        COLUMNS,
        members=population(600, rng, share=0.8),
        synthetic=synthetic,
        holdout=population(600, rng, share=0.1),
        reference=population(600, rng),
    )
    risk = figure(trial, "density_auc")
    assert risk.low is not None
    assert risk.low < 0.5


def test_a_copied_pattern_of_gaps_gives_patients_away_whose_values_do_not() -> None:
    rng = np.random.default_rng(5)
    members = with_gaps(population(300, rng), rng)
    synthetic = kernel_draws(members, 1500, rng, noise=2.5)
    trial = make_trial(
        COLUMNS,
        members=members,
        synthetic=synthetic,
        holdout=with_gaps(population(300, rng), rng),
        reference=with_gaps(population(600, rng), rng),
    )
    assert value(figure(trial, "density_gaps_auc")) > value(figure(trial, "density_auc")) + 0.1


def test_gaps_are_not_looked_at_where_released_rows_have_none() -> None:
    rng = np.random.default_rng(6)
    members = population(100, rng)
    names = {risk.name for risk in membership_risks(trial_of(members, members, rng))}
    assert not any("gaps" in name for name in names)


def test_a_class_of_a_few_patients_has_no_figure_and_is_named() -> None:
    rng = np.random.default_rng(7)
    members = population(300, rng, share=0.0)
    members.loc[:11, "sepsis"] = 1
    trial = trial_of(members, kernel_draws(members, 600, rng, noise=0.2), rng)
    risk = figure(trial, "density_auc", "sepsis")
    assert (risk.value, risk.num_attacks) == (None, 12)
    assert risk.reason is not None
    assert "12 members" in risk.reason
    overall = figure(trial, "density_auc")
    assert overall.num_attacks == 288
    assert overall.caution is not None
    assert "sepsis" in overall.caution


def test_a_table_of_equal_rows_is_no_error() -> None:
    rng = np.random.default_rng(8)
    members = population(100, rng)
    constant = pd.concat([members.iloc[[0]]] * 60).assign(sepsis=np.arange(60) % 2)
    assert value(figure(trial_of(members, constant, rng), "density_auc")) < 0.65
