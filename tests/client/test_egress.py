"""The one way out of a site. Each refusal has an update that leaves where its rule is not set."""

import json
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedward.client.app import make_client_app
from fedward.client.audit import AuditTrail
from fedward.client.egress import MARGIN_BYTES, EgressRules, Gate
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.trainer import Trainer
from fedward.common.chain import Head
from fedward.common.errors import FedwardError, RefusedError, SiteDataError, StorageError
from fedward.common.flower import assume_server_identity, stamp
from fedward.common.records import (
    PARAMETERS,
    STATISTICS_QUERY,
    Binding,
    Instruction,
    Update,
    Vectors,
    arrays_of,
)
from fedward.common.task import PatientDataset, SiteData

BINDING = Binding("run", 3, "nonce", "model", "manifest")
SITE_DATA = SiteData(PatientDataset({}), PatientDataset({}))
ASKED = Instruction(BINDING, {PARAMETERS: np.zeros(3, np.float32)})


def send(vectors: Vectors, loss: float = 0.5) -> None:
    update = Update(5, loss, vectors, {"seconds": 1.0})
    records = Gate().let_out(update, ASKED, loss_name="train_loss")
    assert set(records) == {"arrays", "metrics", "receipt", "report"}


def test_an_honest_update_leaves_with_its_receipt() -> None:
    update = Update(5, 0.5, {PARAMETERS: np.ones(3, np.float32)}, {"seconds": 1.0})
    records = Gate().let_out(update, ASKED, loss_name="train_loss")
    assert BINDING.is_in(records["receipt"])
    assert dict(records["metrics"].items()) == {"num-examples": 5, "train_loss": 0.5}
    assert json.loads(str(records.config_records["report"]["json"])) == {"seconds": 1.0}


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        ({PARAMETERS: np.array([1, np.nan, 1], np.float32)}, "NaN or infinite"),
        ({PARAMETERS: np.array([1, np.inf, 1], np.float32)}, "NaN or infinite"),
        ({PARAMETERS: np.ones(4, np.float32)}, "another form"),
        ({PARAMETERS: np.ones(3, np.float64)}, "another form"),
        ({"patients": np.ones(3, np.float32)}, "not on the list"),
    ],
)
def test_what_was_not_agreed_stays_at_the_site(vectors: Vectors, why: str) -> None:
    with pytest.raises(SiteDataError, match=why):
        send(vectors)


def test_a_loss_that_is_not_finite_stays_at_the_site() -> None:
    with pytest.raises(SiteDataError, match="train_loss is not finite"):
        send({PARAMETERS: np.ones(3, np.float32)}, loss=float("nan"))


def test_masking_is_the_last_step_and_sees_only_what_passed() -> None:
    seen: list[Vectors] = []

    def mask(vectors: Vectors) -> Vectors:
        seen.append(vectors)
        return {name: vector + 100 for name, vector in vectors.items()}

    update = Update(5, 0.5, {PARAMETERS: np.ones(3, np.float32)})
    records = Gate().let_out(update, ASKED, loss_name="train_loss", mask=mask)
    np.testing.assert_array_equal(arrays_of(records)[PARAMETERS].numpy(), [101, 101, 101])
    bad = Update(5, 0.5, {PARAMETERS: np.full(3, np.nan, np.float32)})
    with pytest.raises(SiteDataError, match="NaN"):
        Gate().let_out(bad, ASKED, loss_name="train_loss", mask=mask)
    assert len(seen) == 1


@pytest.mark.parametrize(("second", "leaves"), [(2.5, True), (float("nan"), False)])
def test_preprocessing_sums_pass_the_same_gate(second: float, leaves: bool) -> None:
    assume_server_identity(run_id=1)
    site = Site("bern", lambda _: SITE_DATA, lambda: np.array([5.0, second]), SiteStore(None))
    app = make_client_app(lambda context: site, cast("Trainer", None))
    content = RecordDict({"binding": BINDING.to_record()})
    message = stamp(Message(content, dst_node_id=1, message_type=STATISTICS_QUERY))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    if leaves:
        sums = arrays_of(app(message, context).content)["sums"].numpy()
        np.testing.assert_array_equal(sums, [5.0, second])
    else:
        with pytest.raises(SiteDataError, match="NaN or infinite values in sums"):
            app(message, context)


ONES = {PARAMETERS: np.ones(3, np.float32)}
FIGURE = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40, "reason": None}


def update(report: dict[str, Any] | None = None, *, num_examples: int = 40) -> Update:
    return Update(num_examples, 0.5, ONES, report or {})


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        (EgressRules(min_cohort=41), "fewer patients"),
        (EgressRules(payload_bytes=12), "bytes"),
        (EgressRules(update_norm=1.7), "longer"),  # the norm is sqrt(3) = 1.732
    ],
)
def test_a_rule_of_the_site_refuses_and_says_which(rules: EgressRules, what: str) -> None:
    Gate().let_out(update(), ASKED, loss_name="eval_loss")
    with pytest.raises(RefusedError, match=rf"{what}.*site\.yaml"):
        Gate(rules).let_out(update(), ASKED, loss_name="eval_loss")


def test_what_just_keeps_the_rules_leaves() -> None:
    rules = EgressRules(min_cohort=40, payload_bytes=14, update_norm=1.74)
    assert PARAMETERS in arrays_of(Gate(rules).let_out(update(), ASKED, loss_name="train_loss"))


def test_the_refusal_tells_neither_how_many_patients_nor_how_long_the_update() -> None:
    for rules in (EgressRules(min_cohort=100), EgressRules(update_norm=1.0)):
        with pytest.raises(RefusedError) as refused:
            Gate(rules).let_out(update(num_examples=37), ASKED, loss_name="loss")
        assert "37" not in str(refused.value)
        assert "1.7" not in str(refused.value)


def test_the_norm_is_that_of_the_change_not_of_the_model() -> None:
    far = Instruction(BINDING, {PARAMETERS: np.full(3, 1e3, np.float32)})
    near = Update(40, 0.5, {PARAMETERS: np.full(3, 1e3 + 0.5, np.float32)})
    assert Gate(EgressRules(update_norm=1.0)).let_out(near, far, loss_name="train_loss")


@pytest.mark.parametrize(
    "report",
    [
        {"patients": [1, 2]},
        {"seconds": "Anna Muster"},
        {"seconds": float("nan")},
        {"num_steps": 2**60},  # eight letters
        {"num_examples": {"train": 5, "names": 3}},
        {"metrics": {"auroc": {**FIGURE, "row": 3}}},
        {"metrics": {"auroc": {**FIGURE, "value": "1970-01-01"}}},
        {"metrics": {"auroc": {**FIGURE, "value": None, "reason": "x" * 300}}},
        {"metrics": {"auroc": {"value": float("inf")}}},
        {"subgroups": {"old": {"metrics": {"auroc": FIGURE}, "rows": [1]}}},
        {"calibration": {"predicted": [0.1], "observed": [0.2], "n": [5, 6]}},
        {"calibration": {"predicted": ["a"], "observed": [0.2], "n": [5]}},
        {"audit": {"seq": 1, "hash": "a name"}},
    ],
)
def test_a_report_with_anything_but_figures_stays_and_is_not_quoted(report: Any) -> None:
    with pytest.raises(SiteDataError, match="nothing is sent") as refused:
        Gate().let_out(update(report), ASKED, loss_name="eval_loss")
    assert not any(word in str(refused.value) for word in ("Anna", "1970", "patients"))


def test_a_reply_is_no_larger_than_the_model_and_a_margin() -> None:
    subgroups = {f"group {n}": {"metrics": {"auroc": FIGURE}} for n in range(2000)}
    with pytest.raises(SiteDataError, match="bytes"):
        Gate().let_out(update({"subgroups": subgroups}), ASKED, loss_name="eval_loss")
    few = {name: subgroups[name] for name in list(subgroups)[:300]}
    records = Gate().let_out(update({"subgroups": few}), ASKED, loss_name="eval_loss")
    size = len(str(records.config_records["report"]["json"])) + 12
    assert MARGIN_BYTES / 4 < size <= 1.05 * 12 + MARGIN_BYTES


def test_a_site_that_shows_no_metrics_sends_loss_and_counts_only() -> None:
    counts = {"num_examples": {"train": 90, "test": 40}, "seconds": 1.0}
    full = update({"metrics": {"auroc": FIGURE}, **counts})
    records = Gate(EgressRules(show_metrics=False)).let_out(full, ASKED, loss_name="eval_loss")
    assert json.loads(str(records.config_records["report"]["json"])) == counts


def test_what_leaves_is_in_the_log_by_name_form_and_hash_and_never_by_value() -> None:
    trail = AuditTrail(None)
    Gate(log=trail).let_out(
        Update(40, 0.123456, {PARAMETERS: np.full(3, 0.7654321, np.float32)}, {"seconds": 1.0}),
        ASKED,
        loss_name="train_loss",
    )
    (entry,) = trail.entries()
    (array,) = entry["arrays"]
    assert (entry["event"], entry["run_key"], entry["round"]) == ("let out", "run", 3)
    assert (array["name"], array["dtype"], array["shape"], array["bytes"]) == (
        PARAMETERS, "float32", [3], 12,
    )  # fmt: skip
    assert len(array["sha256"]) == 64
    assert "0.765" not in json.dumps(entry)
    assert "0.1234" not in json.dumps(entry)


def test_the_head_of_the_log_leaves_with_the_reply_that_it_is_about() -> None:
    trail = AuditTrail(None)
    records = Gate(log=trail).let_out(update({"seconds": 1.0}), ASKED, loss_name="train_loss")
    report = json.loads(str(records.config_records["report"]["json"]))
    assert report == {"seconds": 1.0, "audit": vars(trail.head)}
    assert trail.head.seq == 1


def test_what_is_refused_is_in_the_log_too() -> None:
    trail = AuditTrail(None)
    with pytest.raises(FedwardError):
        Gate(EgressRules(min_cohort=50), trail).let_out(update(), ASKED, loss_name="train_loss")
    (entry,) = trail.entries()
    assert entry["event"] == "refused"
    assert "min_cohort" in entry["why"]


def test_nothing_leaves_that_could_not_be_logged() -> None:
    class Full:
        def append(self, event: str, **facts: Any) -> Head:
            raise StorageError("the disk is full")

    with pytest.raises(StorageError):
        Gate(log=Full()).let_out(update(), ASKED, loss_name="train_loss")


def test_sums_over_too_few_values_are_those_of_an_unmeasured_field() -> None:
    sums = np.array([30.0, 30, 4, 9, 1, 7.5, 56.25, 0, 0, 0])  # the second field: one patient's 7.5
    open_gate, gate = Gate(), Gate(EgressRules(min_cohort=5))
    told = arrays_of(open_gate.let_out_sums(sums, BINDING))["sums"].numpy()
    np.testing.assert_array_equal(told, sums)
    told = arrays_of(gate.let_out_sums(sums, BINDING))["sums"].numpy()
    np.testing.assert_array_equal(told, [30, 30, 4, 9, 0, 0, 0, 0, 0, 0])
    with pytest.raises(RefusedError, match="min_cohort"):
        Gate(EgressRules(min_cohort=31)).let_out_sums(sums, BINDING)


def test_of_a_private_run_only_what_was_paid_for_leaves_and_no_exact_figure_of_its_training() -> (
    None
):
    paid: list[Binding] = []
    gate = Gate(clear=paid.append)
    vectors: Vectors = {PARAMETERS: np.ones(3, np.float32)}
    spent = {"epsilon": 1.0, "delta": 1e-5}
    gate.let_out(Update(5, 0.0, vectors, {"privacy": spent}), ASKED, loss_name="train_loss")
    assert paid == [BINDING]
    exact = Update(5, 0.0, vectors, {"privacy": {**spent, "clipped": 0.5}})
    with pytest.raises(SiteDataError, match="exact figure of patients"):
        gate.let_out(exact, ASKED, loss_name="train_loss")
    Gate().let_out(exact, ASKED, loss_name="train_loss")  # a simulation tells it
    gate.let_out(Update(5, 0.0, {}, {"privacy": {}}), ASKED, loss_name="eval_loss")
    assert paid == [BINDING], "an evaluation that tells nothing costs nothing"
