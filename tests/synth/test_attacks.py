"""Singling out, linking and inferring: against copies they succeed, against others they do not."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fedward.synth.evaluation.inference import inference_risks
from fedward.synth.evaluation.linkability import linkability_risk
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.singling_out import singling_out_risks
from fedward.synth.evaluation.trial import Trial, make_trial
from fedward.synth.tables.columns import Column, Columns
from tests.synth.attacked_cohort import (
    COLUMNS,
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


@each_attack
def test_a_copy_of_the_training_rows_is_at_the_highest_risk(attack: Attack) -> None:
    rng = np.random.default_rng(0)
    members = population(200, rng)
    assert value(attack(trial_of(members, members, rng), rng)) > 0.95


@each_attack
def test_a_distribution_of_few_parameters_is_at_little_risk(attack: Attack) -> None:
    rng = np.random.default_rng(1)
    members = population(400, rng)
    risk = attack(trial_of(members, gaussian_draws(members, 400, rng), rng), rng)
    assert value(risk) < 0.1


@pytest.mark.parametrize("name", ["linkability", "inference"])
def test_patients_swapped_for_others_are_at_no_risk(name: str) -> None:
    leaks = 0
    for seed in range(10):
        rng = np.random.default_rng(100 + seed)
        synthetic = kernel_draws(population(100, rng), 200, rng, noise=0.2)
        leaks += ATTACKS[name](trial_of(population(100, rng), synthetic, rng), rng).is_leak
    # 1 in 40 intervals lies above 0: more than 3 of 10 with a probability of 7e-5.
    assert leaks <= 3
