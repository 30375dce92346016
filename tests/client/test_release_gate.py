"""Synthetic rows pass the one gate, and nothing else does in their place."""

import io
import json
import pickle
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedward.client.audit import AuditTrail
from fedward.client.data.read import table_from_frame
from fedward.client.egress import EgressRules, Gate
from fedward.client.releases import Release, ReleaseLedger
from fedward.client.resident import wire
from fedward.common.errors import RefusedError, SiteDataError
from fedward.common.records import SYNTHESIS_QUERY, Binding, SynthesisQuery, arrays_of
from fedward.common.tables.synthetic_rows import VALUES, RowForm
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.kde_knn import KDEKNN
from fedward.synth.tables.table_frame import frame_of
from tests.client.clinic import CLINIC, clinic_frame

BINDING = Binding("run", 1, "nonce", "model", "manifest")
FORM = RowForm(CLINIC.fields, (20, 20))
RULES = EgressRules(min_cohort=5, synthetic_rows=100)
REPORT = {
    "synthesiser": "kde-knn",
    "classes": {"negative": {"status": "given", "requested": 20, "returned": 20}},
}


def honest() -> dict[str, npt.NDArray[Any]]:
    table = table_from_frame(clinic_frame(40), CLINIC, place="clinic.csv")
    parts = {code: table.take(table.label == code) for code in (0, 1)}
    columns = {code: [t.columns[f.name] for f in CLINIC.fields] for code, t in parts.items()}
    return dict(FORM.put(columns))


def let_out(
    vectors: Mapping[str, npt.NDArray[Any]],
    *,
    gate: Gate | None = None,
    num_patients: int = 40,
    name: str = "release",
    report: Mapping[str, Any] = REPORT,
) -> Any:
    release = Release("west", "rows", name, dict(vectors), num_patients, num_rows=40, report=report)
    return (gate or Gate(RULES)).let_out_release(release, BINDING, FORM.empty())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a fitted KDE-KNN as a file: it contains the patients."""
    columns = Columns.of_schema(CLINIC)
    table = table_from_frame(clinic_frame(60), CLINIC, place="clinic.csv")
    model = KDEKNN(columns).fit(frame_of(table, columns))
    assert model.holds_patients
    path = tmp_path_factory.mktemp("model") / "model.synth"
    model.save(path)
    return path.read_bytes()


def test_the_rows_that_were_asked_for_leave_with_receipt_report_and_budget() -> None:
    records = let_out(honest())
    assert set(arrays_of(records)) == set(FORM.empty())
    assert BINDING.is_in(records["receipt"])
    told = json.loads(str(records.config_records["report"]["json"]))
    assert told == {"synthesis": {**REPORT, "rows_left": 60}}


def test_question_and_rows_cross_the_socket_between_worker_and_runner_as_they_are() -> None:
    query = SynthesisQuery(BINDING, "rows", {"parameters": np.ones(3, np.float32)})
    asked = wire.Frame(SYNTHESIS_QUERY, query.to_records(), run=1, node=2, message_id="m")
    for frame in (asked, wire.Frame(wire.REPLY, let_out(honest()))):
        here, there = socket.socketpair()
        with here, there:
            sender = threading.Thread(target=wire.send_packed, args=(here, wire.pack(frame)))
            sender.start()
            came = wire.receive(there)
            sender.join()
        sent, found = arrays_of(frame.records), arrays_of(came.records)
        assert list(found) == list(sent)
        for name, array in sent.items():
            np.testing.assert_array_equal(found[name].numpy(), array.numpy())
            assert found[name].dtype == array.dtype


def test_how_many_patients_there_are_is_not_said() -> None:
    for num_patients in (5, 40):
        metrics = let_out(honest(), num_patients=num_patients)["metrics"]
        assert metrics["num-examples"] == 5


def as_array(model: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(model, dtype=np.uint8)


def npz(model: bytes) -> npt.NDArray[np.uint8]:
    content = io.BytesIO()
    np.savez(content, model=as_array(model))
    return as_array(content.getvalue())


def test_a_saved_model_does_not_leave_in_place_of_rows_however_it_is_packed(saved: bytes) -> None:
    pickled = as_array(pickle.dumps(saved))
    for model in (as_array(saved), npz(saved), pickled):
        with pytest.raises(SiteDataError, match="another form"):
            let_out({**honest(), VALUES: model})
        with pytest.raises(SiteDataError, match="not on the list"):
            let_out({**honest(), "model": model})
        with pytest.raises(SiteDataError, match="something else than figures"):
            let_out(honest(), report={**REPORT, "synthesiser": model.tobytes().decode("latin-1")})
    with pytest.raises(SiteDataError, match="something else than figures"):
        let_out(honest(), report={**REPORT, "model": 1})


@pytest.mark.parametrize(
    "report",
    [
        {"classes": {"negative": {"status": "given", "patients": 12}}},
        {"classes": {"negative": {"status": "withheld", "reason": "only 3 patients"}}},
        {"classes": {"negative": {"status": "withheld", "reason": "too few patients", "n": 3}}},
        {"classes": {"negative": {"status": "given", "returned": 2**60}}},
        {"classes": [1, 2]},
    ],
)
def test_a_report_that_could_carry_a_count_of_patients_or_a_text_stays(
    report: Mapping[str, Any],
) -> None:
    with pytest.raises(SiteDataError, match="something else than figures"):
        let_out(honest(), report=report)


def test_rows_that_are_not_finite_or_of_too_few_patients_stay() -> None:
    vectors = honest()
    vectors[VALUES][3, 1] = np.nan
    with pytest.raises(SiteDataError, match="NaN or infinite"):
        let_out(vectors)
    with pytest.raises(RefusedError, match="fewer patients than the 5"):
        let_out(honest(), num_patients=4)


def test_a_budget_that_is_spent_keeps_further_rows_here_and_is_written_down(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    trail = AuditTrail(database)
    gate = Gate(RULES, trail, ReleaseLedger(database))
    for name in ("first", "second"):
        let_out(honest(), gate=gate, name=name)
    with pytest.raises(RefusedError, match="20 are left"):
        let_out(honest(), gate=gate, name="third")
    let_out(honest(), gate=gate, name="first")  # the same rows again
    events = [(entry["event"], entry.get("why", "")) for entry in trail.entries()]
    assert [event for event, _ in events] == ["let out", "let out", "refused", "let out"]
    assert "limits.synthetic_rows" in events[2][1]
    assert [array["name"] for array in trail.entries()[0]["arrays"]] == list(FORM.empty())


def test_what_the_gate_refuses_for_another_reason_costs_no_rows() -> None:
    ledger = ReleaseLedger(None)
    vectors = honest()
    vectors[VALUES][3, 1] = np.inf
    with pytest.raises(SiteDataError):
        let_out(vectors, gate=Gate(RULES, None, ledger))
    assert ledger.num_rows("west") == 0
    let_out(honest(), gate=Gate(RULES, None, ledger))
    assert ledger.num_rows("west") == 40


def test_a_site_that_keeps_its_figures_still_says_how_many_rows_are_left() -> None:
    gate = Gate(EgressRules(min_cohort=5, synthetic_rows=100, show_metrics=False))
    told = json.loads(str(let_out(honest(), gate=gate).config_records["report"]["json"]))
    assert told == {"synthesis": {"rows_left": 60}}
