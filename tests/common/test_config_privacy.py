"""Keys of `privacy`, and what a private run may not ask for beside."""

from typing import Any

import numpy as np
import pytest

from fedward.common.config.loader import run_config_from_dict
from fedward.common.deployment import check_deployable
from fedward.common.errors import ConfigError
from fedward.common.private_statistics import Accounted, FromSchema, Unprotected

DP_SGD = {"mode": "dp-sgd", "epsilon": 3.0, "delta": 1e-4, "max_grad_norm": 1.0}


def values(privacy: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": 1,
        "name": "mortality",
        "seed": 3,
        "task": "ehr-classification",
        "data": {"schema": "breast-cancer", "statistics": "schema"},
        "model": {"name": "mlp"},
        "strategy": {"name": "fedavg"},
        "rounds": 2,
        "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
    }
    for key, value in more.items():
        section = found.setdefault(key, {})
        found[key] = {**section, **value} if isinstance(value, dict) else value
    return found | ({} if privacy is None else {"privacy": privacy})


def test_a_run_is_private_only_where_it_says_so() -> None:
    assert run_config_from_dict(values(DP_SGD)).is_private
    assert not run_config_from_dict(values(None)).is_private
    assert not run_config_from_dict(values({"mode": "none"})).is_private


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilon": None}, "exactly one of"),
        ({"noise_multiplier": 1.0}, "exactly one of"),
        ({"delta": None}, "delta"),
        ({"max_grad_norm": None}, "max_grad_norm"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"delta": 0.0}, "delta"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"epsilon": None, "noise_multiplier": 0.0}, "noise_multiplier"),
        ({"unit": "record"}, "unit"),
        ({"mode": "none"}, "without effect"),
        ({"max_records": 0}, "max_records"),
    ],
)
def test_a_promise_that_is_none_is_refused(changed: dict[str, Any], said: str) -> None:
    given = {key: value for key, value in {**DP_SGD, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        run_config_from_dict(values(given))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": {"statistics": "federated"}}, "use schema"),
        ({"data": {"statistics": "local"}}, "use schema"),
        ({"data": {"validation_fraction": 0.2}}, "validation_fraction"),
        ({"strategy": {"name": "ditto"}}, "a second time"),
        ({"strategy": {"name": "qfedavg"}}, "a second time"),
        ({"monitor": {"stop": "plateau"}}, "plateau"),
        ({"local": {"precision": "bfloat16"}}, "float32"),
        ({"local": {"compile": True}}, "float32"),
    ],
)
def test_what_uses_patients_beside_the_account_is_refused_and_passes_without_privacy(
    more: dict[str, Any], said: str
) -> None:
    run_config_from_dict(values(None, **more))
    with pytest.raises(ConfigError, match=said):
        run_config_from_dict(values(DP_SGD, **more))


def test_hospitals_can_be_asked_for_a_private_run() -> None:
    check_deployable(run_config_from_dict(values(None)))
    check_deployable(run_config_from_dict(values(DP_SGD)))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"figures": "noised"}, "is needed there"),
        ({"figures_noise": 3.0}, "goes with figures: noised"),
        ({"figures": "none", "figures_noise": 3.0}, "goes with figures: noised"),
        ({"figures": "noised", "figures_noise": -1.0}, "figures_noise"),
        ({"figures": "some"}, "exact"),
    ],
)
def test_noised_figures_need_their_noise(figures: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_config_from_dict(values(DP_SGD | figures))
    run_config_from_dict(values(DP_SGD | {"figures": "noised", "figures_noise": 3.0}))
    run_config_from_dict(values(DP_SGD | {"figures": "none"}))


def test_the_schemas_ranges_scale_where_no_patient_is_asked() -> None:
    sums = np.array([3.0, 1.0, 2.0, 4.0])
    for gate in (FromSchema(), Accounted()):
        np.testing.assert_array_equal(gate.release("normalisation", sums), np.zeros(4))
    np.testing.assert_array_equal(Unprotected().release("normalisation", sums), sums)


def test_other_statistics_of_patients_pass_only_without_privacy() -> None:
    dice = np.array([0.7])
    np.testing.assert_array_equal(FromSchema().release("validation-dice", dice), dice)
    with pytest.raises(ConfigError, match=r"validation-dice.*use fixed"):
        Accounted().release("validation-dice", dice)
