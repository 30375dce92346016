"""The attack on the released model tells members apart where a model remembers them."""

import numpy as np
import pytest

from fedward.common.errors import ConfigError
from fedward.simulations.privacy_audit.membership import (
    attack_membership,
    judge,
    likelihood_ratio,
)
from tests.simulations.privacy_faults import private_run, run_of

REMEMBERS = (
    "engine.name=inprocess", "baselines=[]", "repeat=null", "sampling.min_replies=1",
    "data.partition.by=iid", "data.partition.alpha=null", "data.partition.num_sites=2",
    "data.test_fraction=0.5", "model.hidden=[64]", "rounds=4", "local.epochs=60",
    "local.optimizer=adam", "local.learning_rate=0.01", "local.batch_size=32",
)  # fmt: skip
"""Long training of a wide network on few patients: nine of ten labels are known by heart."""


def test_the_ratio_is_that_of_two_normals_by_hand() -> None:
    shadow_SN = np.array([[1.0, 5.0], [3.0, 5.0], [-1.0, 0.0], [-3.0, 4.0]])
    is_in_SN = np.array([[True, True], [True, True], [False, False], [False, True]])
    # Of those in: means 2 and 14/3, squared distances 2 and 2/3, of 1 + 2 free values.
    variance_in, variance_out = (2 + 2 / 3) / 3, 2.0  # out: means -2 and 0, distances 2 and 0
    confidence = np.array([2.0, 0.0])
    spread_in = variance_in * (1 + 1 / np.array([2, 3]))
    spread_out = variance_out * (1 + 1 / np.array([2, 1]))
    by_hand = (
        -((confidence - [2, 14 / 3]) ** 2) / (2 * spread_in) - np.log(spread_in) / 2
        + ((confidence - [-2, 0]) ** 2) / (2 * spread_out) + np.log(spread_out) / 2
    )  # fmt: skip
    np.testing.assert_allclose(likelihood_ratio(confidence, shadow_SN, is_in_SN), by_hand)


def test_nothing_is_said_of_a_patient_whom_every_shadow_model_knows() -> None:
    shadow_SN = np.array([[1.0, 5.0], [3.0, 5.0], [0.0, 1.0]])
    is_in_SN = np.array([[True, True], [True, False], [True, False]])
    assert likelihood_ratio(np.array([9.0, 9.0]), shadow_SN, is_in_SN)[0] == 0


def test_a_member_is_found_only_above_nearly_all_others() -> None:
    score = np.concatenate([[5.0, 3.0, 2.5, 0.0], np.linspace(-1, 1, 199), [3.5]])
    is_in = np.arange(len(score)) < 4
    found = judge(score, is_in, seed=1)
    # Of 200 others two may be above: 3.5 and 1.0 are, so the threshold is below 1.
    assert found.tpr.value == 0.75
    assert found.tpr.low is not None
    assert found.tpr.high is not None
    assert found.tpr.low < 0.75 < found.tpr.high <= 1
    assert (found.num_members, found.num_others) == (4, 200)


def test_scores_that_say_nothing_are_guesses() -> None:
    rng = np.random.default_rng(3)
    found = judge(rng.standard_normal(2000), np.arange(2000) < 1000, seed=1)
    assert found.auc.low is not None
    assert found.auc.high is not None
    assert found.auc.low < 0.5 < found.auc.high
    assert found.tpr.low is not None
    assert found.tpr.high is not None
    assert found.tpr.low < 0.01 < found.tpr.high


@pytest.mark.slow
def test_a_model_that_remembers_its_patients_gives_them_away() -> None:
    found = attack_membership(run_of("quickstart", *REMEMBERS), seeds=[1, 2], num_shadows=12)
    for attack in found:
        assert attack.auc.low is not None
        assert attack.auc.low > 0.51, "0.5 is guessing"
        assert attack.num_members + attack.num_others == 569


@pytest.mark.slow
def test_the_same_training_with_privacy_does_not() -> None:
    private = private_run(*REMEMBERS, "rounds=4", "local.epochs=4", epsilon=1)
    for attack in attack_membership(private, seeds=[1, 2], num_shadows=12):
        assert attack.auc.low is not None
        assert attack.auc.high is not None
        assert attack.auc.low < 0.53
        assert attack.auc.high < 0.6


def test_the_sites_of_a_shadow_model_are_those_of_the_run() -> None:
    federation = private_run("rounds=1", "data.partition.by=iid", "data.partition.alpha=null")
    (found,) = attack_membership(
        federation,
        seeds=[
            1,
        ],
        num_shadows=4,
    )
    assert found.num_members + found.num_others == 569


@pytest.mark.parametrize(
    ("overrides", "num_shadows", "named"),
    [
        (("shared=[head.*]",), 8, "shared: only a part of the model is released"),
        ((), 2, "--shadows: given 2, expected at least 4"),
    ],
)
def test_what_cannot_be_attacked_is_refused(
    overrides: tuple[str, ...], num_shadows: int, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        attack_membership(private_run(*overrides), seeds=[1], num_shadows=num_shadows)
