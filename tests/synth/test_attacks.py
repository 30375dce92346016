"""Singling out, linking and inferring: against copies they succeed, against others they do not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedward.common.intervals import wilson
from fedward.common.task import Metric
from fedward.synth.evaluation.inference import inference_risks
from fedward.synth.evaluation.linkability import linkability_risk
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.singling_out import singling_out_risks
from fedward.synth.evaluation.trial import Trial, make_trial
from fedward.synth.tables.columns import Columns
from tests.synth.attacked_cohort import (
    COLUMNS,
    NUMBERS,
    gaussian_draws,
    kernel_draws,
    population,
    trial_of,
    with_gaps,
)

Attack = Callable[[Trial, np.random.Generator], Risk]
ATTACKS: dict[str, Attack] = {
    "univariate": lambda trial, rng: singling_out_risks(trial, rng)[0],
    "multivariate": lambda trial, rng: singling_out_risks(trial, rng)[1],
    "linkability": linkability_risk,
    "inference": lambda trial, rng: inference_risks(trial, rng)[0],
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def value(risk: Risk) -> float:
    assert risk.value is not None, risk.reason
    return risk.value


def rate(metric: Metric) -> float:
    assert metric.value is not None
    return metric.value


def of_columns(trial: Trial, names: list[str]) -> Trial:
    """Return the same patients with these columns only, and no label."""
    columns = Columns(tuple(trial.columns[name] for name in names))
    return make_trial(
        columns,
        members=trial.members[names],
        synthetic=trial.synthetic[names],
        holdout=trial.holdout[names],
        reference=trial.reference[names],
    )


@each_attack
def test_a_copy_of_the_training_rows_is_at_the_highest_risk(attack: Attack) -> None:
    rng = np.random.default_rng(0)
    members = population(200, rng)
    assert value(attack(trial_of(members, members, rng), rng)) > 0.95


@each_attack
def test_a_copy_with_gaps_is_at_the_highest_risk_too(attack: Attack) -> None:
    rng = np.random.default_rng(1)
    members = with_gaps(population(200, rng), rng)
    trial = make_trial(
        COLUMNS,
        members=members,
        synthetic=members,
        holdout=with_gaps(population(200, rng), rng),
        reference=with_gaps(population(200, rng), rng),
    )
    assert value(attack(trial, rng)) > 0.95


@each_attack
def test_a_distribution_of_few_parameters_is_at_little_risk(attack: Attack) -> None:
    rng = np.random.default_rng(2)
    members = population(400, rng)
    risk = attack(trial_of(members, gaussian_draws(members, 400, rng), rng), rng)
    assert value(risk) < 0.1


@each_attack
def test_patients_swapped_for_others_are_at_no_risk(attack: Attack) -> None:
    leaks = 0
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        synthetic = kernel_draws(population(100, rng), 200, rng, noise=0.2)
        leaks += attack(trial_of(population(100, rng), synthetic, rng), rng).is_leak
    # 1 in 40 intervals lies above 0: more than 2 of 6 with a probability of 3e-4.
    assert leaks <= 2


@each_attack
def test_less_noise_on_copies_is_more_risk_down_to_the_copy_itself(attack: Attack) -> None:
    rng = np.random.default_rng(3)
    members = population(200, rng)
    risks = [
        value(attack(trial_of(members, kernel_draws(members, 400, rng, noise=noise), rng), rng))
        for noise in (0.0, 3.0)
    ]
    assert risks[0] > risks[1] + 0.3


@pytest.mark.parametrize("name", ["linkability", "inference"])
def test_more_rows_of_a_kernel_density_are_more_risk(name: str) -> None:
    rng = np.random.default_rng(4)
    members = population(200, rng)
    few, many = (
        ATTACKS[name](trial_of(members, kernel_draws(members, n, rng, noise=0.5), rng), rng)
        for n in (200, 4000)
    )
    assert value(many) > value(few) + 0.1


def test_each_secret_has_a_figure_and_what_all_know_of_it_is_no_risk() -> None:
    rng = np.random.default_rng(5)
    members = population(300, rng)
    risks = inference_risks(trial_of(members, gaussian_draws(members, 300, rng), rng), rng)
    assert [risk.group for risk in risks] == ["all", *COLUMNS.names, "sepsis"]
    label = risks[-1]
    assert label.rates is not None
    # Labs tell of sepsis, of members and of others alike.
    assert rate(label.rates.control) > 0.55
    assert not label.is_leak


def test_guesses_follow_the_secret_that_the_rows_hold() -> None:
    # Released rows are the members', but for one lab, which is another patient's.
    rng = np.random.default_rng(6)
    members = population(300, rng)
    swapped = members.assign(lab0=rng.permutation(members["lab0"]))
    risks = {
        risk.group: value(risk) for risk in inference_risks(trial_of(members, swapped, rng), rng)
    }
    # The lab that is wrong now and then makes another row the nearest.
    assert risks["lab0"] < 0.1
    assert risks["lab1"] > 0.8


def test_a_naive_attacker_links_as_often_as_chance_has_it() -> None:
    rng = np.random.default_rng(7)
    members = population(100, rng)
    trial = trial_of(members, kernel_draws(members, 400, rng, noise=1.0), rng)
    risk = linkability_risk(trial, rng)
    assert risk.rates is not None
    # Two draws of 4 of 400 rows have one in common.
    draws = np.random.default_rng(0)
    common = [
        bool(set(draws.choice(400, 4, replace=False)) & set(draws.choice(400, 4, replace=False)))
        for _ in range(5000)
    ]
    # Standard error 0.0028.
    assert rate(risk.rates.naive) == pytest.approx(np.mean(common), abs=0.011)


def test_a_smaller_holdout_draws_as_many_members_for_singling_out() -> None:
    rng = np.random.default_rng(8)
    members = population(200, rng)
    trial = make_trial(
        COLUMNS,
        members=members,
        synthetic=members,
        holdout=population(100, rng),
        reference=population(200, rng),
    )
    for risk in singling_out_risks(trial, rng):
        assert risk.rates is not None
        # Half of the members are drawn, so that half of the copies have somebody to point at.
        assert rate(risk.rates.attack) == pytest.approx(0.5, abs=0.2)


def test_predicates_that_point_at_one_patient_count_as_one() -> None:
    # One released row is the smallest in all columns, and so is one member.
    rng = np.random.default_rng(9)
    members = population(100, rng)
    members.loc[0, list(NUMBERS)] = -50.0
    synthetic = population(100, rng)
    synthetic.loc[0, list(NUMBERS)] = -40.0
    risk = singling_out_risks(trial_of(members, synthetic, rng), rng)[0]
    assert risk.rates is not None
    attack = risk.rates.attack
    assert attack.n is not None
    assert attack.high is not None
    # A dozen of them succeed, and tell of one patient.
    assert rate(attack) * attack.n == pytest.approx(12, abs=2)
    assert attack.high > 2 * wilson(12, attack.n)[1]


@pytest.mark.parametrize("names", [["lab0"], ["ward"], ["lab0", "ward"]])
def test_tables_of_one_or_two_columns_end_with_figures_or_reasons(names: list[str]) -> None:
    rng = np.random.default_rng(10)
    members = population(100, rng)
    trial = of_columns(trial_of(members, kernel_draws(members, 100, rng, noise=0.5), rng), names)
    found = [attack(trial, rng) for attack in ATTACKS.values()]
    assert all((risk.value is None) == (risk.reason is not None) for risk in found)
    assert len(names) > 1 or found[2].value is None


def test_equal_rows_and_empty_columns_end_with_figures_or_reasons() -> None:
    rng = np.random.default_rng(11)
    members = population(100, rng).assign(lab3=np.nan)
    constant = pd.concat([members.iloc[[0]]] * 60, ignore_index=True)
    trial = trial_of(members, constant, rng)
    trial = replace(trial, holdout=trial.holdout.assign(lab3=np.nan))
    found = [attack(trial, rng) for attack in ATTACKS.values()]
    assert all((risk.value is None) == (risk.reason is not None) for risk in found)
    assert not any(risk.is_leak for risk in found)
