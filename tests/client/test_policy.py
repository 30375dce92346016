"""Each rule of a site has a run that breaks it and no other."""

import base64
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from fedward.client.plugins import plugin_hash
from fedward.client.policy import check_request
from fedward.common.config.overrides import apply_overrides, parse_override
from fedward.common.config.site import SiteConfig
from fedward.common.errors import RefusedError
from fedward.common.request import RunRequest
from tests.client.clinic import CLINIC

RUN: dict[str, Any] = {
    "version": 1,
    "name": "clinic",
    "seed": 1,
    "task": "ehr-classification",
    "data": {"root": ".", "schema": "clinic", "sites": {"bern": {"file": "bern.csv"}}},
    "model": {"name": "logistic-regression"},
    "strategy": {"name": "fedavg"},
    "rounds": 10,
    "local": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1},
    "sampling": {"min_replies": 3},
}
SCHEMA = CLINIC.model_dump(mode="json")
SITE: dict[str, Any] = {
    "version": 1,
    "site": "bern",
    "data": {"path": "bern.csv", "schema": "clinic.yaml"},
    "limits": {"epochs": 2, "rounds": 10, "payload_bytes": 1000, "min_replies": 3},
    "min_cohort": 5,
}


def changed(values: dict[str, Any], *overrides: str) -> dict[str, Any]:
    parsed = [parse_override(text) for text in overrides]
    return dict(apply_overrides(values, parsed, is_declared=lambda key: True))


def check(
    run: dict[str, Any] = RUN,
    site: dict[str, Any] = SITE,
    schema: dict[str, Any] = SCHEMA,
    payload_bytes: int = 1000,
) -> None:
    check_request(
        RunRequest("anna", run, schema, "2026-11-21T12:00:00+00:00"),
        SiteConfig.model_validate(site),
        num_patients=100,
        payload_bytes=payload_bytes,
        schema=CLINIC,
    )


def test_a_run_within_all_limits_is_allowed() -> None:
    check()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("local.epochs=3", "local.epochs: the run asks for 3, the site allows 2 .limits.epochs."),
        ("rounds=11", "rounds: the run asks for 11, the site allows 10"),
        ("sampling.min_replies=2", "averages 2 updates or more, the site demands 3"),
        ("model.name=os:system", "model.name.*no plug-in of this site"),
        ("local.epochs=0", "cannot be used"),
    ],
)
def test_a_run_that_asks_for_too_much_is_told_which_rule_with_both_values(
    override: str, told: str
) -> None:
    with pytest.raises(RefusedError, match=told):
        check(changed(RUN, override))


def test_every_broken_rule_is_named_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        check(changed(RUN, "local.epochs=9", "rounds=99"), payload_bytes=1001)
    for rule in ("limits.epochs", "limits.rounds", "limits.payload_bytes", "1001", "1000"):
        assert rule in str(refused.value)


@pytest.mark.parametrize(("steps", "is_allowed"), [(25, True), (26, False)])
def test_steps_count_as_epochs_over_the_sites_own_patients(steps: int, *, is_allowed: bool) -> None:
    # By hand: 25 steps of 8 patients are 2 epochs over 100.
    run = {**RUN, "local": {"steps": steps, "batch_size": 8, "learning_rate": 0.1}}
    if is_allowed:
        check(run)
    else:
        with pytest.raises(RefusedError, match=r"limits\.epochs") as refused:
            check(run)
        assert "100" not in str(refused.value)  # how many patients the site has is its own


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        (None, "limits.epsilon"),
        ({"noise_multiplier": 1.0, "delta": 1e-6}, "limits.epsilon"),
        ({"epsilon": 9.0, "delta": 1e-6}, "limits.epsilon"),
        ({"epsilon": 3.0, "delta": 1e-2}, "limits.delta"),
        ({"epsilon": True, "delta": 1e-6}, "privacy.epsilon: given true"),
        ({"epsilon": float("nan"), "delta": 1e-6}, "privacy.epsilon: given infinity"),
        ({"epsilon": 3.0, "delta": 1e-6, "mode": "none"}, "privacy.epsilon: without effect"),
    ],
)
def test_a_site_with_a_privacy_budget_refuses_runs_without_one_that_fits(
    privacy: dict[str, Any] | None, told: str
) -> None:
    site = changed(SITE, "limits.epsilon=8.0", "limits.delta=0.00001")
    with pytest.raises(RefusedError, match=told):
        check(RUN if privacy is None else private(privacy), site)


def test_a_run_within_the_privacy_budget_is_allowed() -> None:
    site = changed(SITE, "limits.epsilon=8.0", "limits.delta=0.00001")
    check(private({"epsilon": 8.0, "delta": 1e-5}), site)


def test_a_site_with_a_privacy_budget_leaves_no_noise_to_the_coordinator() -> None:
    site = changed(SITE, "limits.epsilon=8.0", "limits.delta=0.00001")
    promise = {"unit": "site", "epsilon": 3.0, "delta": 1e-6, "max_update_norm": 1.0}
    quiet = {**private({}), "monitor": {"influence": False}}
    central = {**quiet, "privacy": {"mode": "central", **promise}}
    with pytest.raises(RefusedError, match="the coordinator adds the noise"):
        check(central, site)
    check(central, SITE)
    check({**quiet, "privacy": {"mode": "local", **promise}}, site)


def private(privacy: dict[str, Any]) -> dict[str, Any]:
    """Return the run with DP-SGD, which wants statistics that ask no patient."""
    data = {**RUN["data"], "statistics": "schema"}
    return {**RUN, "data": data, "privacy": {"mode": "dp-sgd", "max_grad_norm": 1.0, **privacy}}


def test_a_run_with_another_schema_is_refused_by_the_keys_that_differ() -> None:
    with pytest.raises(RefusedError, match="differ in drop, min_cohort"):
        check(schema={**SCHEMA, "drop": [], "min_cohort": 1})
    with pytest.raises(RefusedError, match="schema: the run's cannot be read"):
        check(schema={"fields": "all"})


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the module of a package that is installed as pip leaves it."""
    (tmp_path / "own_nets").mkdir()
    module = tmp_path / "own_nets" / "__init__.py"
    module.write_text("raise RuntimeError('imported')\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(module.read_bytes()).digest()).rstrip(b"=")
    info = tmp_path / "own_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-nets\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        f"own_nets/__init__.py,sha256={digest.decode()},31\nown_nets-1.0.dist-info/RECORD,,\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return module


def with_plugin(hashed: str) -> dict[str, Any]:
    return {**SITE, "plugins": [{"name": "own-nets", "hash": hashed}]}


def test_an_own_model_comes_only_from_a_plugin_with_the_hash_that_the_site_names(
    plugin: Path,
) -> None:
    record = plugin.parents[1] / "own_nets-1.0.dist-info" / "RECORD"
    assert plugin_hash("own-nets") == hashlib.sha256(record.read_bytes()).hexdigest()
    run = changed(RUN, "model.name=own_nets:Net")
    check(run, with_plugin(plugin_hash("own-nets")))
    with pytest.raises(RefusedError, match=r"not the one that site\.yaml names"):
        check(run, with_plugin("0" * 64))
    with pytest.raises(RefusedError, match="no plug-in"):
        check(changed(RUN, "model.name=json:Net"), with_plugin(plugin_hash("own-nets")))
    assert "own_nets" not in sys.modules


def test_a_plugin_that_was_changed_after_installation_is_refused(plugin: Path) -> None:
    hashed = plugin_hash("own-nets")
    plugin.write_text("steal = True\n")
    with pytest.raises(RefusedError, match="changed after installation"):
        check(changed(RUN, "model.name=own_nets:Net"), with_plugin(hashed))


SYNTHESIS: dict[str, Any] = {"method": "rows", "rows_per_site": 400}
PRIVATE: dict[str, Any] = {
    "method": "dp-copula", "rows_per_site": 400, "epsilon": 2.0, "delta": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "limits", "told"),
    [
        (SYNTHESIS, [], r"lets no synthetic rows out \(limits.synthetic_rows\)"),
        (SYNTHESIS, ["limits.synthetic_rows=1000"], "of the 1000 .* 300 are left"),
        (SYNTHESIS, ["limits.synthetic_rows=1100"], None),
        ({**SYNTHESIS, "method": "copula"}, ["limits.synthetic_rows=1100"], "lets none out"),
        ({**SYNTHESIS, "method": "copula"}, ["limits.synthetic_sums=true"], None),
        (PRIVATE, ["limits.synthetic_sums=true"], None),
        (PRIVATE, ["limits.synthetic_sums=true", "limits.epsilon=2", "limits.delta=1e-5"], None),
        (
            PRIVATE,
            ["limits.synthetic_sums=true", "limits.epsilon=1", "limits.delta=1e-5"],
            "synthesis.epsilon: the run asks for 2, the site allows 1",
        ),
        (
            {**SYNTHESIS, "method": "copula"},
            ["limits.synthetic_sums=true", "limits.epsilon=1"],
            "privacy.epsilon: the run does not say",
        ),
    ],
)
def test_what_a_run_asks_for_synthetic_rows_is_compared_with_the_sites_limits(
    section: dict[str, Any], limits: list[str], told: str | None
) -> None:
    def look() -> None:
        check_request(
            RunRequest("anna", {**RUN, "synthesis": section}, SCHEMA, "2026-11-21T12:00:00+00:00"),
            SiteConfig.model_validate(changed(SITE, *limits)),
            num_patients=100,
            payload_bytes=1000,
            schema=CLINIC,
            rows_released=700,
        )

    if told is None:
        look()
    else:
        with pytest.raises(RefusedError, match=told):
            look()
