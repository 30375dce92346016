"""Keys of `privacy` in the modes `central` and `local`, and what passes by their noise."""

from typing import Any

import pytest

from fedward.common.config.loader import run_config_from_dict
from fedward.common.config.run import RunConfig
from fedward.common.deployment import check_deployable
from fedward.common.errors import ConfigError
from tests.common.test_config_privacy import DP_SGD, values

CENTRAL = {
    "mode": "central",
    "unit": "site",
    "epsilon": 3.0,
    "delta": 1e-4,
    "max_update_norm": 1.0,
}
LOCAL = {**CENTRAL, "mode": "local"}
NO_INFLUENCE = {"monitor": {"influence": False}}


def run(privacy: dict[str, Any], **more: Any) -> RunConfig:
    return run_config_from_dict(values(privacy, **{**NO_INFLUENCE, **more}))


@pytest.mark.parametrize("privacy", [CENTRAL, LOCAL])
def test_a_run_that_protects_sites_is_not_one_that_protects_patients(
    privacy: dict[str, Any],
) -> None:
    config = run(privacy)
    assert config.protects_sites
    assert not config.is_private
    assert not run(DP_SGD).protects_sites
    check_deployable(config)


@pytest.mark.parametrize("privacy", [CENTRAL, LOCAL])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_grad_norm": 1.0}, "use max_update_norm"),
        ({"max_records": 3}, "use max_update_norm"),
        ({"max_update_norm": None}, "max_update_norm.* needs it"),
        ({"max_update_norm": 0.0}, "max_update_norm"),
        ({"delta": None}, "delta"),
        ({"epsilon": None}, "exactly one of"),
        ({"noise_multiplier": 1.0}, "exactly one of"),
        ({"unit": "patient"}, "not a patient among its patients; write unit: site"),
        ({"unit": None}, "write unit: site"),
    ],
)
def test_a_promise_to_sites_needs_its_own_keys_and_says_its_unit(
    privacy: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    given = {key: value for key, value in {**privacy, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        run(given)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_update_norm": 1.0}, "use max_grad_norm"),
        ({"unit": "site"}, "write unit: patient"),
    ],
)
def test_a_promise_to_patients_does_not_take_those_keys(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run({**DP_SGD, **changed})


def test_a_norm_without_a_mode_is_without_effect() -> None:
    with pytest.raises(ConfigError, match=r"max_update_norm.*without effect"):
        run({"mode": "none", "max_update_norm": 1.0})


@pytest.mark.parametrize("privacy", [CENTRAL, LOCAL])
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": {"statistics": "federated"}}, "use schema"),
        ({"data": {"validation_fraction": 0.2}}, "validation_fraction"),
        ({"strategy": {"name": "scaffold"}}, "control variates"),
        ({"strategy": {"name": "ditto"}}, "personal models"),
        ({"strategy": {"name": "qfedavg"}}, "exact losses"),
        ({"monitor": {"influence": False, "cme": True}}, "before clipping and noise"),
        ({"monitor": {"influence": False, "stop": "plateau"}}, "plateau"),
    ],
)
def test_what_would_leave_beside_the_noise_is_refused_and_passes_without_privacy(
    privacy: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    run_config_from_dict(values(None, **more))
    with pytest.raises(ConfigError, match=said):
        run(privacy, **more)


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "krum", "multikrum"])
def test_a_choice_among_updates_goes_with_noise_of_each_and_not_with_that_of_their_mean(
    name: str,
) -> None:
    run(LOCAL, strategy={"name": name})
    with pytest.raises(ConfigError, match="mode: local"):
        run(CENTRAL, strategy={"name": name})


def test_influence_is_told_of_noised_updates_only() -> None:
    run_config_from_dict(values(LOCAL))
    with pytest.raises(ConfigError, match=r"influence.*set it to false"):
        run_config_from_dict(values(CENTRAL))
