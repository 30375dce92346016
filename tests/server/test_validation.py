"""Hostile and faulty replies, each alone beside three honest sites."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from fedward.common.flower import Records
from fedward.common.records import PARAMETERS, Binding, array_record
from fedward.server.validation import Accepted, Rejected, Sent
from tests.server.toy import Tampering, run_toy

TARGETS = {"aachen": 1.0, "bern": 2.0, "cork": 3.0, "mallory": 100.0}


def with_arrays(arrays: ArrayRecord) -> Tampering:
    def tamper(message: Message, reply: Message) -> Message:
        if "arrays" in reply.content:
            reply.content["arrays"] = arrays
        return reply

    return tamper


def with_metrics(**metrics: Any) -> Tampering:
    def tamper(message: Message, reply: Message) -> Message:
        if "train_loss" in reply.content["metrics"]:
            named = {key.replace("_examples", "-examples"): v for key, v in metrics.items()}
            reply.content["metrics"] = MetricRecord(
                {**reply.content.metric_records["metrics"], **named}
            )
        return reply

    return tamper


def with_receipt(**parts: Any) -> Tampering:
    def tamper(message: Message, reply: Message) -> Message:
        receipt = Binding.from_record(reply.content["receipt"])
        reply.content["receipt"] = replace(receipt, **parts).to_record()
        return reply

    return tamper


def with_report(text: str) -> Tampering:
    def tamper(message: Message, reply: Message) -> Message:
        reply.content["report"] = ConfigRecord({"json": text})
        return reply

    return tamper


def without(name: str) -> Tampering:
    def tamper(message: Message, reply: Message) -> Message:
        if name in reply.content:
            del reply.content[name]
        return reply

    return tamper


def vector(*values: float, dtype: Any = np.float32) -> ArrayRecord:
    return array_record({PARAMETERS: np.array(values, dtype=dtype)})


def lying_header() -> ArrayRecord:
    honest = Array(np.zeros(2, np.float32))
    return ArrayRecord({PARAMETERS: Array("float32", (3,), "numpy.ndarray", honest.data)})


BAD: dict[str, tuple[Tampering, str]] = {
    "NaN": (with_arrays(vector(1, math.nan, 1)), "NaN or infinite"),
    "infinity": (with_arrays(vector(1, math.inf, 1)), "NaN or infinite"),
    "too short": (with_arrays(vector(1, 1)), r"expected float32 \(3,\)"),
    "another rank": (
        with_arrays(array_record({PARAMETERS: np.ones((3, 1), np.float32)})),
        r"expected float32 \(3,\)",
    ),
    "another dtype": (with_arrays(vector(1, 1, 1, dtype=np.float64)), "float64"),
    "another key": (with_arrays(array_record({"weights": np.ones(3, np.float32)})), "has arrays"),
    "a key more": (
        with_arrays(
            array_record({PARAMETERS: np.ones(3, np.float32), "more": np.ones(3, np.float32)})
        ),
        "has arrays",
    ),
    "a lying header": (with_arrays(lying_header()), "behind its header"),
    "bytes that are no array": (
        with_arrays(ArrayRecord({PARAMETERS: Array("float32", (3,), "numpy.ndarray", b"x")})),
        "cannot be read",
    ),
    "no arrays": (without("arrays"), "has records"),
    "no receipt": (without("receipt"), "receipt is missing"),
    "no metrics": (without("metrics"), "has records"),
    "zero examples": (with_metrics(num_examples=0), r"not in 1\.\.20"),
    "negative examples": (with_metrics(num_examples=-5), r"not in 1\.\.20"),
    "more examples than patients": (with_metrics(num_examples=10**12), r"not in 1\.\.20"),
    "fractional examples": (with_metrics(num_examples=9.5), "not an integer"),
    "NaN examples": (with_metrics(num_examples=math.nan), "not an integer"),
    "NaN loss": (with_metrics(train_loss=math.nan), "not a finite number"),
    "a metric more": (with_metrics(extra=1.0), "metrics must be exactly"),
    "a stale round": (with_receipt(round_number=0), "another round"),
    "another nonce": (with_receipt(nonce="0" * 32), "nonce"),
    "another model": (with_receipt(model_hash="0" * 64), "another model"),
    "another run": (with_receipt(run_key="other"), "another run"),
    "another manifest": (with_receipt(manifest_hash="x"), "other shared tensors"),
    "a round that is text": (with_receipt(round_number="1"), "malformed"),
    "a report that is no JSON": (with_report("{"), "not valid JSON"),
    "a NaN in the report": (with_report('{"metrics": {"auroc": {"value": NaN}}}'), "JSON"),
    "a report that is a list": (with_report("[]"), "not an object"),
    "a report of something else": (with_report('{"metrics": [1]}'), "does not hold figures"),
    "a figure that is text": (with_report('{"metrics": {"auroc": {"value": "1"}}}'), "figures"),
    "a time that is text": (with_report('{"seconds": "long"}'), "not a number"),
    "figures of layers that are a list": (with_report('{"cme": [1]}'), "report.cme"),
    "a figure of a layer that is text": (with_report('{"cme": {"w": {"rho": "1"}}}'), "report.cme"),
    "a figure of a layer more": (with_report('{"cme": {"w": {"map": 1.0}}}'), "report.cme"),
    "a cosine beyond 1": (with_report('{"cme": {"w": {"rho": 1.5}}}'), "report.cme"),
    "a figure of a layer without end": (
        with_report('{"cme": {"w": {"log_mag": 1e999}}}'),
        "report.cme",
    ),
    "a map among the figures": (with_report('{"cme": {"w": [[1, 2], [3, 4]]}}'), "report.cme"),
    "more layers than there can be": (
        with_report(json.dumps({"cme": {f"w{number}": {"rho": 0.5} for number in range(257)}})),
        "report.cme",
    ),
    "an endless report": (with_report('"' + "x" * 1_000_001 + '"'), "too long"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_rejected_with_its_reason_and_the_honest_ones_count(name: str) -> None:
    tamper, reason = BAD[name]
    outcome, loop = run_toy(targets=TARGETS, tampering={"mallory": tamper}, rounds=1)
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 1.0, rtol=1e-6)
    rejected = [e for e in loop.history.entries if e.status == "rejected" and e.phase == "train"]
    assert [e.site for e in rejected] == ["mallory"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(rejected[0].reason)


def test_the_same_attack_succeeds_where_nothing_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The defence is what protects: without it a claimed cohort makes the model mallory's own."""

    def unchecked(
        sent: Mapping[int, Sent], replies: Iterable[Message], *, loss_name: str
    ) -> tuple[list[Accepted], list[Rejected]]:
        accepted = []
        for reply in replies:
            kept = {k: v for k, v in reply.content.items() if k in {"arrays", "metrics"}}
            reply.content = Records(kept)
            accepted.append(Accepted(sent[reply.metadata.src_node_id].site, reply, 1, 0.0, 0))
        return accepted, []

    monkeypatch.setattr("fedward.server.exchange.check_replies", unchecked)
    claim = {"mallory": with_metrics(num_examples=10**12)}
    outcome, _ = run_toy(targets=TARGETS, tampering=claim, rounds=1)
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 50.0, rtol=1e-3)


def test_a_reply_that_comes_twice_counts_once() -> None:
    from fedward.simulations.grids.inprocess import InProcessGrid

    class EchoGrid(InProcessGrid):
        def exchange(self, messages: list[Message], timeout: float | None) -> list[Message]:
            replies = super().exchange(messages, timeout)
            return [*replies, replies[-1]]

    outcome, loop = run_toy(targets=TARGETS, rounds=1, grid=EchoGrid())
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 106 / 4 / 2, rtol=1e-6)
    assert {e.reason for e in loop.history.entries if e.status == "rejected"} == {
        "answered a second time"
    }


def test_a_reply_from_a_node_that_was_not_asked_is_refused() -> None:
    from fedward.simulations.grids.inprocess import InProcessGrid

    class Intruder(InProcessGrid):
        def exchange(self, messages: list[Message], timeout: float | None) -> list[Message]:
            replies = super().exchange(messages, timeout)
            replies[0].metadata.__dict__["_src_node_id"] = 99
            return replies

    outcome, loop = run_toy(targets=TARGETS, rounds=1, grid=Intruder())
    reasons = {e.reason for e in loop.history.entries if e.status != "ok"}
    assert reasons == {"was not asked in this round", "no reply before the round closed"}
    assert outcome.progress.num_aggregated == 1


def test_no_honest_reply_is_rejected_in_a_thousand_site_rounds() -> None:
    targets = {f"site-{number:02d}": float(number) for number in range(50)}
    _, loop = run_toy(targets=targets, rounds=20)
    trained = [e for e in loop.history.entries if e.phase == "train" and e.site is not None]
    assert len(trained) == 1000
    assert all(entry.status == "ok" for entry in trained)
