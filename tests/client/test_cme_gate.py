"""What of CME passes the gate. Each rule has a counterpart in which it is off and more leaves."""

import json
from typing import Any

import numpy as np
import pytest

from fedward.client.audit import AuditTrail
from fedward.client.egress import EgressRules, Gate
from fedward.common.errors import RefusedError, SiteDataError
from fedward.common.monitoring.telemetry import ROUNDED_TO
from fedward.common.records import PARAMETERS, Binding, Instruction, Update, Vectors

BINDING = Binding("run", 3, "nonce", "model", "manifest")
ASKED = Instruction(BINDING, {PARAMETERS: np.zeros(3, np.float32)})
ONES = {PARAMETERS: np.ones(3, np.float32)}
LAYER = "body.2.weight"
FIGURES = {"log_mag": -2.3371, "rho": 0.8049, "map_cos": -0.3314, "top1": 0.0171}
CME = {LAYER: FIGURES, "head.weight": {"log_mag": -12.0}}
TOLD = {"log_mag": -2.35, "rho": 0.8, "map_cos": -0.34, "top1": 0.02}
"""By hand: the nearest multiple of .05, and of .02."""


def told(
    report: dict[str, Any],
    rules: EgressRules | None = None,
    log: AuditTrail | None = None,
    *,
    is_masked: bool = False,
) -> Any:
    def mask(vectors: Vectors) -> Vectors:
        return {name: vector + 7 for name, vector in vectors.items()}

    records = Gate(rules, log).let_out(
        Update(40, 0.5, ONES, report),
        ASKED,
        loss_name="train_loss",
        mask=mask if is_masked else None,
    )
    return json.loads(str(records.config_records["report"]["json"]))


def test_a_simulation_tells_all_four_figures_rounded() -> None:
    assert told({"cme": CME})["cme"] == {LAYER: TOLD, "head.weight": {"log_mag": -12.0}}


@pytest.mark.parametrize("name", ROUNDED_TO)
def test_two_sites_within_half_a_step_of_a_grid_point_tell_the_same(name: str) -> None:
    step = ROUNDED_TO[name]
    values = (10 + np.linspace(-0.49, 0.49, 21)) * step
    found = {told({"cme": {LAYER: {name: float(v)}}})["cme"][LAYER][name] for v in values}
    assert found == {round(10 * step, 2)}
    beyond = told({"cme": {LAYER: {name: float(10.51 * step)}}})["cme"][LAYER][name]
    assert beyond == round(11 * step, 2)


def test_a_cosine_that_rounding_carried_beyond_1_is_told_as_1() -> None:
    figures = {"rho": 1 + 1e-9, "map_cos": -1 - 1e-9, "top1": 1 + 1e-9}
    assert told({"cme": {LAYER: figures}})["cme"][LAYER] == {"rho": 1, "map_cos": -1, "top1": 1}


@pytest.mark.parametrize(
    ("telemetry", "names"),
    [
        ((), set()),
        (("cme.rho",), {"rho"}),
        (("cme.rho", "cme.log_mag"), {"rho", "log_mag"}),
        (("cme",), set(FIGURES)),
        (("cme", "cme.rho"), set(FIGURES)),
    ],
)
def test_only_what_the_site_lists_leaves(telemetry: tuple[str, ...], names: set[str]) -> None:
    trail = AuditTrail(None)
    report = told({"cme": CME, "seconds": 1.0}, EgressRules(telemetry=telemetry), trail)
    found = report.get("cme", {})
    assert set(found.get(LAYER, {})) == names
    assert ("cme" in report) == bool(names)
    assert ("head.weight" in found) == ("log_mag" in names)
    (entry,) = trail.entries()
    assert entry["withheld"] == len(FIGURES) - len(names)


def test_the_audit_trail_says_which_figures_left_and_how_coarse_but_not_their_values() -> None:
    trail = AuditTrail(None)
    told({"cme": CME}, EgressRules(telemetry=("cme.rho", "cme.log_mag")), trail)
    told({"seconds": 1.0}, None, trail)
    with_cme, without = trail.entries()
    assert with_cme["rounded_to"] == {"cme.log_mag": 0.05, "cme.rho": 0.02}
    assert "cme" in with_cme["report"]
    assert "2.3" not in json.dumps(with_cme["rounded_to"])
    assert "rounded_to" not in without


def test_nothing_of_it_leaves_beside_a_masked_update() -> None:
    assert "cme" in told({"cme": CME, "seconds": 1.0})
    assert told({"cme": CME, "seconds": 1.0}, is_masked=True) == {"seconds": 1.0}


def test_a_site_that_shows_no_metrics_tells_none_of_it() -> None:
    validation = {"loss": 0.4, "num_examples": 40}
    report = {"cme": CME, "validation": validation, "seconds": 1.0}
    assert told(report, EgressRules(show_metrics=False)) == {"seconds": 1.0}
    assert set(told(report)) == {"cme", "validation", "seconds"}


def test_of_too_few_patients_not_even_the_update_leaves() -> None:
    assert "cme" in told({"cme": CME}, EgressRules(min_cohort=40))
    with pytest.raises(RefusedError, match="min_cohort"):
        told({"cme": CME}, EgressRules(min_cohort=41))


@pytest.mark.parametrize(("k", "leaves"), [(9, True), (10, False)])
def test_the_loss_on_too_few_validation_patients_stays(k: int, *, leaves: bool) -> None:
    report = {"validation": {"loss": 0.4, "num_examples": 9}}
    trail = AuditTrail(None)
    assert told(report, EgressRules(min_cohort=k), trail).get("validation") == (
        report["validation"] if leaves else None
    )
    (entry,) = trail.entries()
    assert entry["withheld"] == (0 if leaves else 1)


@pytest.mark.parametrize(
    "report",
    [
        {"cme": [1, 2]},
        {"cme": {LAYER: [1.0]}},
        {"cme": {LAYER: {"rho": 0.5, "patient": 1.0}}},
        {"cme": {LAYER: {"rho": "Anna"}}},
        {"cme": {LAYER: {"rho": True}}},
        {"cme": {LAYER: {"rho": 1.01}}},
        {"cme": {LAYER: {"top1": -0.5}}},
        {"cme": {LAYER: {"log_mag": float("nan")}}},
        {"cme": {LAYER: {"log_mag": 19700101.0}}},
        {"cme": {"Anna" * 100: {"rho": 0.5}}},
        {"cme": {f"layer {n}": {"rho": 0.5} for n in range(257)}},
        {"validation": {"loss": 0.5}},
        {"validation": {"loss": 0.5, "num_examples": 40, "row": 3}},
        {"validation": {"loss": None, "num_examples": 40}},
        {"validation": {"loss": float("inf"), "num_examples": 40}},
        {"validation": {"loss": 0.5, "num_examples": 0}},
        {"validation": {"loss": 0.5, "num_examples": 2.5}},
        {"validation": [0.5, 40]},
    ],
)
def test_a_report_of_another_form_stays_and_is_not_quoted(report: dict[str, Any]) -> None:
    with pytest.raises(SiteDataError, match="nothing is sent") as refused:
        told(report)
    assert not any(word in str(refused.value) for word in ("Anna", "1970", "patient"))


def test_the_figures_of_as_many_layers_as_there_can_be_fit_in_a_reply() -> None:
    layers = {f"encoder.stage.{n}.attention.projection.weight": FIGURES for n in range(256)}
    assert len(told({"cme": layers})["cme"]) == 256
