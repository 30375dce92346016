"""A signed synthesis through real hospitals: budgets, limits, restarts. No network here."""

import json
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedward.client.hospital import Hospital
from fedward.client.releases import ReleaseLedger
from fedward.common.config.run import RunConfig
from fedward.common.errors import NetworkError, QuorumLostError, RefusedError
from fedward.common.flower import stamp
from fedward.common.records import (
    PARAMETERS,
    SYNTHESIS_QUERY,
    Binding,
    SynthesisQuery,
    array_record,
    arrays_of,
)
from fedward.common.tables.synthetic_rows import LABEL, VALUES
from fedward.server.deployed import Coordinator, run_request
from fedward.server.given_files import read_given
from fedward.server.history import read_history
from fedward.simulations.synthetic_tables import claim_of, study_of_run, tables_of, write_tables
from tests.deploy.heart import (
    SITE_YAML,
    SITES,
    Consortium,
    HospitalGrid,
    heart_disease,
    make_consortium,
)

GENEROUS = SITE_YAML + "  synthetic_rows: 250\n  synthetic_sums: true\n"
ROWS = ("synthesis.method=rows", "synthesis.rows_per_site=100")
COPULA = ("synthesis.method=copula", "synthesis.rows_per_site=100")
PRIVATE = (
    "synthesis.method=dp-copula",
    "synthesis.rows_per_site=100",
    "synthesis.epsilon=2",
    "synthesis.delta=1e-4",
)


@pytest.fixture
def made(tmp_path: Path, data_dir: Path) -> Consortium:
    return make_consortium(tmp_path / "c", data_dir, site_yaml=GENEROUS)


def limit(made: Consortium, site: str, old: str, new: str) -> None:
    yaml = made.site_yaml(site)
    text = yaml.read_text()
    assert old in text
    yaml.write_text(text.replace(old, new), encoding="utf-8")


def opened(made: Consortium) -> dict[str, Hospital]:
    return {site: made.open(site) for site in SITES}


def run(
    made: Consortium, config: RunConfig, folder: Path, grid: HospitalGrid | None = None
) -> list[str]:
    text = made.signed(config)
    grid = grid or HospitalGrid(opened(made), text)
    lines: list[str] = []
    here = Coordinator(made.server, grid, grid.nodes, lines.append)
    run_request(made.read(grid.config["request"]), here, folder)
    return lines


def released(made: Consortium, site: str) -> int:
    ledger = ReleaseLedger(made.folder / site / "site.sqlite")
    try:
        return ledger.num_rows(site)
    finally:
        ledger.close()


def test_hospitals_give_rows_and_the_operator_writes_them_as_tables(
    made: Consortium, tmp_path: Path
) -> None:
    lines = run(made, heart_disease(*ROWS), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    sites = summary["synthesis"]["sites"]
    assert set(sites) == set(SITES)
    assert all(one["rows_left"] == (200 if s == "switzerland" else 150) for s, one in sites.items())
    withheld = {"status": "withheld", "reason": "too few patients"}
    assert sites["switzerland"]["classes"]["no disease"] == withheld
    assert "no model is trained" in lines[0]
    assert any("switzerland: 50 rows; no disease withheld" in line for line in lines)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    given = read_given(tmp_path / "run")
    assert given is not None
    study = study_of_run(tmp_path / "run")
    files = write_tables(tables_of(given, study), study, tmp_path / "run", ending=".csv")
    assert len(pd.read_csv(files[0])) == 350
    trail = made.open("va").trail
    assert trail.verify(model_key=made.server.roster.model_key) == []
    (entry,) = [one for one in trail.entries() if one["event"] == "let out"]
    assert [array["shape"] for array in entry["arrays"]] == [[100, 13], [100, 13], [100]]


def test_the_budget_lasts_over_two_runs_and_a_restart_and_then_ends(
    made: Consortium, tmp_path: Path
) -> None:
    limit(made, "va", "synthetic_rows: 250", "synthetic_rows: 150")
    run(made, heart_disease(*ROWS), tmp_path / "one")
    assert [released(made, site) for site in SITES] == [100, 100, 50, 100]
    # Hospitals are opened anew: what they remember is on disk.
    run(made, heart_disease(*ROWS, "seed=2"), tmp_path / "two")
    (refused,) = {
        (line["site"], line["reason"])
        for line in read_history(tmp_path / "two" / "history.jsonl")
        if line["status"] == "failed"
    }
    assert refused[0] == "va"
    assert "asks for 100 rows, and of the 150 that the site ever lets out 50 are left" in refused[1]
    given = read_given(tmp_path / "two")
    assert given is not None
    assert set(given.by_site) == set(SITES) - {"va"}
    assert [released(made, site) for site in SITES] == [200, 200, 100, 100]
    with pytest.raises(QuorumLostError, match=r"limits\.synthetic_rows"):
        run(made, heart_disease(*ROWS, "seed=3"), tmp_path / "three")
    assert released(made, "cleveland") == 200
    events = [one for one in made.open("cleveland").trail.entries() if one["event"] == "refused"]
    assert "limits.synthetic_rows" in events[-1]["why"]


@pytest.mark.parametrize(
    ("keys", "told"), [(ROWS, "limits.synthetic_rows"), (COPULA, "limits.synthetic_sums")]
)
def test_a_hospital_that_says_nothing_gives_nothing(
    tmp_path: Path, data_dir: Path, keys: tuple[str, ...], told: str
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    with pytest.raises(QuorumLostError, match=told):
        run(made, heart_disease(*keys), tmp_path / "run")


def test_the_same_message_again_brings_the_same_rows_and_costs_them_once(
    made: Consortium,
) -> None:
    text = made.signed(heart_disease(*ROWS))
    key = _run_key(made, text)
    first, again, fresh = (
        _asked(made, text, SynthesisQuery(_binding(key), "rows", {})) for _ in range(3)
    )
    for name in (VALUES, LABEL):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], fresh[name])
    assert released(made, "va") == 100
    other = made.signed(heart_disease(*ROWS, "seed=9"))
    assert (
        _asked(made, other, SynthesisQuery(_binding(_run_key(made, other)), "rows", {}))[VALUES]
        != first[VALUES]
    ).any()
    assert released(made, "va") == 200


def test_rows_cannot_be_told_from_what_the_coordinator_knows(
    made: Consortium, tmp_path: Path
) -> None:
    """The seed of the run is public; the rows follow from the site's own secret."""
    text = made.signed(heart_disease(*ROWS))
    query = SynthesisQuery(_binding(_run_key(made, text)), "rows", {})
    before = _asked(made, text, query)
    salt = made.folder / "va" / "id-salt"
    salt.chmod(0o600)
    salt.write_bytes(bytes(range(32, 64)))
    assert (_asked(made, text, query)[VALUES] != before[VALUES]).mean() > 0.3


def test_only_what_was_signed_is_answered(made: Consortium) -> None:
    plain = made.signed(heart_disease())
    with pytest.raises(RefusedError, match="not signed for synthetic rows"):
        _asked(made, plain, SynthesisQuery(_binding(_run_key(made, plain)), "rows", {}))
    text = made.signed(heart_disease(*COPULA))
    key = _run_key(made, text)
    for what in ("rows", "location", "patients"):
        with pytest.raises(RefusedError, match="something else than the request"):
            _asked(made, text, SynthesisQuery(_binding(key), what, {}))
    with pytest.raises(RefusedError, match="another form than agreed"):
        _asked(made, text, SynthesisQuery(_binding(key), "margins", {"x": np.zeros(3)}))
    arrays = array_record({PARAMETERS: np.zeros(64, np.float32)})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({})})
    content["binding"] = _binding(key).to_record()
    message = stamp(Message(content, dst_node_id=1, message_type=MessageType.TRAIN))
    with pytest.raises(RefusedError, match="which trains no model"):
        made.open("va").answer(message, {"request": text})
    local = key.replace("federated", "local")
    with pytest.raises(RefusedError, match="has no baselines"):
        _asked(made, text, SynthesisQuery(_binding(local), "margins", {}))
    _asked(made, text, SynthesisQuery(_binding(key), "margins", {}))


def test_a_run_that_is_cut_between_two_passes_goes_on_with_the_same_sums(
    made: Consortium, tmp_path: Path
) -> None:
    text = made.signed(heart_disease(*COPULA))
    hospitals = opened(made)
    cut = CutGrid(hospitals, text, after=1)
    with pytest.raises(NetworkError):
        run(made, heart_disease(*COPULA), tmp_path / "run", cut)
    hospitals.pop("hungarian")  # away when it goes on: its patients are in the sums all the same
    run(made, heart_disease(*COPULA), tmp_path / "run", HospitalGrid(hospitals, text))
    given = read_given(tmp_path / "run")
    assert given is not None
    assert given.num_sites == 3
    assert given.summed["margins.sites"].item() == 4
    again = HospitalGrid(opened(made), text)
    run(made, heart_disease(*COPULA), tmp_path / "run", again)  # finished: nobody is asked
    entries = made.open("va").trail.entries()
    assert sum(one["event"] == "let out" for one in entries) == 2


def test_noised_sums_are_paid_for_out_of_one_budget_over_all_runs(
    made: Consortium, tmp_path: Path
) -> None:
    for site in SITES:
        limit(made, site, "  min_replies: 2\n", "  min_replies: 2\n  epsilon: 3\n  delta: 1e-4\n")
    run(made, heart_disease(*PRIVATE), tmp_path / "one")
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert (summary["synthesis"]["epsilon"], summary["synthesis"]["delta"]) == (2.0, 1e-4)
    given, study = read_given(tmp_path / "one"), study_of_run(tmp_path / "one")
    assert given is not None
    claim = claim_of(tables_of(given, study))["claim"]
    assert (claim["epsilon"], claim["is_reproducible"]) == (2.0, False)
    assert "SHAKE-256" in claim["noise"]
    with pytest.raises(QuorumLostError, match="its privacy budget is spent"):
        run(made, heart_disease(*PRIVATE, "seed=2"), tmp_path / "two")
    with pytest.raises(QuorumLostError, match=r"synthesis.epsilon: .* allows 3 \(limits.epsilon\)"):
        run(made, heart_disease(*PRIVATE, "synthesis.epsilon=4"), tmp_path / "three")
    with pytest.raises(QuorumLostError, match=r"privacy\.epsilon: the run does not say"):
        run(made, heart_disease(*COPULA), tmp_path / "four")


@pytest.mark.slow
def test_filtered_rows_come_after_the_training_of_the_model_that_filters(
    made: Consortium, tmp_path: Path
) -> None:
    filtered = ("synthesis.method=filtered-rows", "synthesis.rows_per_site=40")
    lines = run(made, heart_disease(*filtered, "baselines=[local]"), tmp_path / "run")
    assert [line for line in lines if line.startswith("round 3/3: 4 of 4 sites")]
    assert [line for line in lines if line == "model to va: ok"]
    assert not [line for line in lines if line.startswith("baseline")]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    told = summary["synthesis"]["sites"]["cleveland"]["classes"]["disease"]
    assert told["returned"] == 20
    assert 0.3 < told["by_filter"] / told["candidates"] < 1
    assert (tmp_path / "run" / "report.html").exists()


class CutGrid(HospitalGrid):
    """Loses the connection after so many exchanges of a synthesis."""

    def __init__(self, hospitals: dict[str, Hospital], request: str, *, after: int) -> None:
        super().__init__(hospitals, request)
        self.after = after

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        if asked[0].metadata.message_type == SYNTHESIS_QUERY:
            if self.after == 0:
                raise NetworkError("the coordinator is being stopped")
            self.after -= 1
        return super().send_and_receive(asked, timeout=timeout)


def _run_key(made: Consortium, text: str) -> str:
    request = made.read(text)
    seed = request.config["seed"]
    return f"{request.config['name']}-federated-seed{seed}-{request.hash[:8]}"


def _binding(run_key: str) -> Binding:
    return Binding(run_key, 1, secrets.token_hex(8), "", "")


def _asked(made: Consortium, text: str, query: SynthesisQuery) -> dict[str, np.ndarray]:
    """Return what a newly opened hospital answers to one query."""
    HospitalGrid({}, text)  # lets this process send
    message = stamp(Message(query.to_records(), dst_node_id=1, message_type=SYNTHESIS_QUERY))
    content = made.open("va").answer(message, {"request": text})
    return {name: array.numpy() for name, array in arrays_of(content).items()}
