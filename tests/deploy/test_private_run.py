"""Private training at real hospitals: who pays, who refuses, and what never leaves. No network."""

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from safetensors.numpy import load_file

from fedward.client.hospital import Hospital
from fedward.client.privacy.account import Cost, SiteAccount
from fedward.client.privacy.anchor_file import AnchorFile
from fedward.client.privacy.entries import Book, Budget
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.site import Site
from fedward.common.errors import QuorumLostError, RefusedError, StorageError
from fedward.common.flower import stamp
from fedward.common.privacy.accounting import epsilon_of, merged
from fedward.common.records import (
    DITTO_LAMBDA,
    LOSS_OF_RECEIVED_MODEL,
    PARAMETERS,
    Binding,
    Instruction,
    array_record,
    arrays_of,
)
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from tests.deploy.heart import SITES, Consortium, HospitalGrid, heart_disease, make_consortium

PRIVATE = (
    "privacy.mode=dp-sgd",
    "privacy.epsilon=6",
    "privacy.delta=0.001",
    "privacy.max_grad_norm=1.0",
    "data.statistics=schema",
    "local.epochs=1",
    "rounds=2",
)


@pytest.fixture
def made(tmp_path: Path, data_dir: Path) -> Consortium:
    return make_consortium(tmp_path / "c", data_dir)


def run(made: Consortium, folder: Path, *changes: str) -> list[str]:
    text = made.signed(heart_disease(*PRIVATE, *changes))
    grid = HospitalGrid({site: made.open(site) for site in SITES}, text)
    lines: list[str] = []
    run_request(
        made.read(text),
        Coordinator(made.server, grid, grid.nodes, lines.append),
        folder,
        report=False,
    )
    return lines


def book_of(made: Consortium, site: str) -> Book:
    ledger = PrivacyLedger(made.folder / site / "site.sqlite", site=site, budget=Budget())
    try:
        return ledger.read()[0]
    finally:
        ledger.close()


def told(folder: Path, site: str) -> list[float]:
    lines = read_history(folder / "history.jsonl")
    return [line["epsilon"] for line in lines if line["site"] == site and "epsilon" in line]


def allow(made: Consortium, site: str, epsilon: float) -> None:
    yaml = made.site_yaml(site)
    limits = f"  min_replies: 2\n  epsilon: {epsilon}\n  delta: 1e-3\n"
    yaml.write_text(yaml.read_text().replace("  min_replies: 2\n", limits), encoding="utf-8")


def test_each_hospital_writes_every_round_down_before_it_and_when_its_result_leaves(
    made: Consortium, tmp_path: Path
) -> None:
    run(made, tmp_path / "run")
    for site in SITES:
        book = book_of(made, site)
        assert [one.planned.round_number for one in book.reserved] == [1, 2]
        assert {one.seq for one in book.reserved} == book.released
        assert not any(one.planned.is_reproducible for one in book.reserved)
        spent = merged(step for one in book.reserved for step in one.planned.segments)
        assert told(tmp_path / "run", site)[-1] == epsilon_of(spent, 1e-3)
        assert 5.9 < epsilon_of(spent, 1e-3) <= 6
        assert made.open(site).trail.verify(model_key=made.server.roster.model_key) == []
    claim = json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"]
    assert claim["is_reproducible"] is False


def test_the_noise_of_hospitals_follows_from_no_seed(made: Consortium, tmp_path: Path) -> None:
    """In a simulation the same run twice is the same model; here nobody can repeat it."""
    for name in ("one", "two"):
        run(made, tmp_path / name, "rounds=1")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert any(not np.array_equal(one[name], two[name]) for name in one)
    plain = "privacy.mode=none privacy.epsilon=null privacy.delta=null privacy.max_grad_norm=null"
    for name in ("three", "four"):
        run(made, tmp_path / name, "rounds=1", *plain.split())
    three, four = (load_file(tmp_path / name / "model.safetensors") for name in ("three", "four"))
    for name, tensor in three.items():
        np.testing.assert_array_equal(tensor, four[name])


def test_two_studies_share_a_budget_and_the_federation_goes_on_without_who_has_none_left(
    made: Consortium, tmp_path: Path
) -> None:
    allow(made, "va", 7.0)
    run(made, tmp_path / "one")
    lines = run(made, tmp_path / "two", "name=second-study")
    refused = {
        (line["site"], line["reason"])
        for line in read_history(tmp_path / "two" / "history.jsonl")
        if line.get("status") == "failed"
    }
    assert {site for site, _ in refused} == {"va"}
    for _, why in refused:
        assert "privacy budget is spent" in why
        assert "limits.epsilon" in why
    assert any("3 of 4 sites" in line for line in lines)
    assert len(book_of(made, "va").reserved) == 2
    assert len(book_of(made, "cleveland").reserved) == 4


def test_a_second_stage_goes_on_from_what_the_ledger_says_of_the_first(
    made: Consortium, tmp_path: Path
) -> None:
    run(made, tmp_path / "one", "privacy.epsilon=3")
    start = f"model.init={tmp_path / 'one' / 'model.safetensors'}"
    run(made, tmp_path / "two", "name=second-stage", start)
    for site in SITES:
        reserved = book_of(made, site).reserved
        assert len({one.planned.run_key for one in reserved}) == 2
        spent = merged(step for one in reserved for step in one.planned.segments)
        assert told(tmp_path / "two", site)[-1] == pytest.approx(epsilon_of(spent, 1e-3))
        assert 5.9 < epsilon_of(spent, 1e-3) <= 6, "the budget is that of both"
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert reserved[0].planned.run_key in summary["privacy"]["composition"]
    # A third one whose budget is spent trains nowhere.
    with pytest.raises(QuorumLostError):
        run(
            made, tmp_path / "three", "name=third-stage", "sampling.max_skipped_rounds=0",
            "privacy.epsilon=5", f"model.init={tmp_path / 'two' / 'model.safetensors'}",
        )  # fmt: skip
    assert len(book_of(made, "va").reserved) == 4


def test_a_local_baseline_costs_what_it_costs(made: Consortium, tmp_path: Path) -> None:
    run(made, tmp_path / "run", "rounds=1", "baselines=[local]")
    keys = [one.planned.run_key for one in book_of(made, "cleveland").reserved]
    assert len(keys) == 2
    assert ["local" in key for key in keys] == [False, True]


def test_noised_figures_of_hospitals_are_in_the_ledger(made: Consortium, tmp_path: Path) -> None:
    noised = ("privacy.figures=noised", "privacy.figures_noise=5", "evaluate_every=2")
    run(made, tmp_path / "run", *noised)
    reserved = book_of(made, "va").reserved
    assert [one.planned.purpose for one in reserved] == ["training", "training", "figures"]
    spent = merged(step for one in reserved for step in one.planned.segments)
    assert 5.9 < epsilon_of(spent, 1e-3) <= 6
    run(made, tmp_path / "silent", "privacy.figures=none", "rounds=1", "seed=2")
    lines = read_history(tmp_path / "silent" / "history.jsonl")
    evaluated = [one for one in lines if one["phase"] == "evaluate" and one["site"]]
    assert [one["status"] for one in evaluated] == ["ok"] * 4
    assert not any(one.get("metrics") for one in evaluated)
    assert [one.planned.purpose for one in book_of(made, "va").reserved][3:] == ["training"]


@pytest.mark.parametrize("lost", ["anchor", "rows"])
def test_where_the_ledger_is_not_whole_a_hospital_trains_nothing(
    made: Consortium, tmp_path: Path, lost: str
) -> None:
    run(made, tmp_path / "one")
    database = made.folder / "va" / "site.sqlite"
    if lost == "anchor":
        AnchorFile(database, "va").path.unlink()
    else:
        _delete_last_entry(made.open("va"))
    run(made, tmp_path / "two", "seed=2")
    failed = [
        line
        for line in read_history(tmp_path / "two" / "history.jsonl")
        if line.get("status") == "failed"
    ]
    assert {line["site"] for line in failed} == {"va"}
    assert not any("ledger" in line["reason"] for line in failed), "what is wrong stays there"
    assert told(tmp_path / "two", "va") == []
    with pytest.raises(StorageError, match="nothing is trained with differential privacy"):
        book_of(made, "va")


def _delete_last_entry(hospital: Hospital) -> None:
    import sqlite3

    with sqlite3.connect(hospital.database) as connection:
        connection.execute("DROP TRIGGER privacy_no_delete")
        connection.execute(
            "DELETE FROM privacy_ledger WHERE seq = (SELECT max(seq) FROM privacy_ledger)"
        )
    connection.close()


Ask = Callable[..., RecordDict]


@pytest.fixture
def ask(made: Consortium) -> Ask:
    """Return what sends one message of round 1 to a hospital."""
    text = made.signed(heart_disease(*PRIVATE))
    request = made.read(text)
    key = f"{request.config['name']}-federated-seed{request.config['seed']}-{request.hash[:8]}"
    HospitalGrid({}, text)  # lets this process send

    def send(hospital: Hospital, nonce: str = "", number: int = 1, **options: float) -> RecordDict:
        values = np.zeros(_num_parameters(made), np.float32)
        config = ConfigRecord()
        for name, value in options.items():
            config[name] = value
        content = RecordDict({"arrays": array_record({PARAMETERS: values}), "config": config})
        nonce = nonce or secrets.token_hex(8)
        content["binding"] = Binding(key, number, nonce, "", "").to_record()
        message = stamp(Message(content, dst_node_id=1, message_type=MessageType.TRAIN))
        return hospital.answer(message, {"request": text})

    return send


def _num_parameters(made: Consortium) -> int:
    from fedward.common.deployment import study_of

    hospital = made.open("va")
    request = made.read(made.signed(heart_disease(*PRIVATE)))
    study = study_of(request, "federated", schema=hospital._schema)
    return study.initial[0].size


def test_a_message_that_comes_again_after_its_result_left_is_paid_for_again(
    made: Consortium, ask: Ask
) -> None:
    hospital = made.open("va")
    first = arrays_of(ask(hospital, nonce="n"))[PARAMETERS].numpy()
    again = arrays_of(ask(hospital, nonce="n"))[PARAMETERS].numpy()
    assert not np.array_equal(first, again), "with other noise, so both together tell more"
    reserved = book_of(made, "va").reserved
    assert [one.attempt for one in reserved] == [1, 2]
    with pytest.raises(RefusedError, match="the run was planned for fewer rounds"):
        ask(hospital, nonce="n")


def test_what_was_not_paid_for_does_not_leave(
    made: Consortium, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = made.open("va")

    # A trainer that forgets to pay.
    def pay_nothing(self: SiteAccount, site: Site, asked: Instruction, cost: Cost) -> object:
        return (cost.segment,)

    monkeypatch.setattr(SiteAccount, "reserve", pay_nothing)
    with pytest.raises(RefusedError, match="no privacy budget is reserved"):
        ask(hospital)
    assert [one["event"] for one in hospital.trail.entries()][-1] == "refused"
    monkeypatch.setattr(SiteAccount, "release", lambda self, binding: None)
    assert PARAMETERS in arrays_of(ask(made.open("va"))), "with the gate's check off it would"


@pytest.mark.parametrize("option", [DITTO_LAMBDA, LOSS_OF_RECEIVED_MODEL])
def test_a_message_that_asks_for_more_of_the_patients_than_was_signed_is_refused(
    made: Consortium, ask: Ask, option: str
) -> None:
    with pytest.raises(RefusedError, match="not accounted"):
        ask(made.open("va"), **{option: 1.0})
    assert book_of(made, "va").reserved == ()


def test_a_run_that_no_hospital_can_afford_ends_with_the_reason(
    made: Consortium, tmp_path: Path
) -> None:
    for site in SITES:
        allow(made, site, 2.0)
    with pytest.raises(QuorumLostError, match=r"privacy.epsilon: the run asks for 6.*allows 2"):
        run(made, tmp_path / "run")
