"""The privacy modes `central` and `local` at real hospitals: who adds noise, and who pays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.common.errors import QuorumLostError
from fedward.common.privacy.accounting import epsilon_of, merged
from fedward.server.deployed import Coordinator, run_request
from tests.deploy.heart import SITES, Consortium, HospitalGrid, heart_disease, make_consortium
from tests.deploy.test_private_run import allow, book_of, told

PRIVATE = (
    "privacy.unit=site",
    "privacy.epsilon=6",
    "privacy.delta=0.001",
    "privacy.max_update_norm=0.5",
    "data.statistics=schema",
    "monitor.influence=false",
    "local.epochs=1",
    "rounds=2",
)


@pytest.fixture
def made(tmp_path: Path, data_dir: Path) -> Consortium:
    return make_consortium(tmp_path / "c", data_dir)


def run(made: Consortium, folder: Path, mode: str, *changes: str) -> dict[str, Any]:
    text = made.signed(heart_disease(*PRIVATE, f"privacy.mode={mode}", *changes))
    grid = HospitalGrid({site: made.open(site) for site in SITES}, text)
    coordinator = Coordinator(made.server, grid, grid.nodes, lambda line: None)
    run_request(made.read(text), coordinator, folder, report=False)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_in_local_each_hospital_pays_before_and_its_baseline_costs_nothing(
    made: Consortium, tmp_path: Path
) -> None:
    claim = run(made, tmp_path / "run", "local", "baselines=[local]")["privacy"]
    assert claim["is_reproducible"] is False
    assert claim["unit"].startswith("site")
    for site in SITES:
        book = book_of(made, site)
        assert [one.planned.purpose for one in book.reserved] == ["update", "update"]
        assert {one.seq for one in book.reserved} == book.released
        spent = merged(step for one in book.reserved for step in one.planned.segments)
        assert told(tmp_path / "run", site)[-1] == epsilon_of(spent, 1e-3)
        assert 5.9 < epsilon_of(spent, 1e-3) <= 6


def test_in_central_the_server_pays_and_no_ledger_is_touched(
    made: Consortium, tmp_path: Path
) -> None:
    summary = run(made, tmp_path / "run", "central")
    assert {found["epsilon"] for found in summary["sites"].values()} == {
        summary["privacy"]["epsilon"]
    }
    assert 5.9 < summary["privacy"]["epsilon"] <= 6
    assert not any("clipped" in found for found in summary["privacy"]["sites"].values())
    assert all(not book_of(made, site).reserved for site in SITES)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_noise_follows_from_no_seed(mode: str, made: Consortium, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(made, tmp_path / name, mode, "rounds=1")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert any(not np.array_equal(one[name], two[name]) for name in one)


def test_a_hospital_with_a_budget_takes_no_part_in_central_and_pays_in_local(
    made: Consortium, tmp_path: Path
) -> None:
    for site in SITES:
        allow(made, site, 7.0)
    with pytest.raises(QuorumLostError, match="the coordinator adds the noise"):
        run(made, tmp_path / "central", "central", "sampling.max_skipped_rounds=0")
    run(made, tmp_path / "local", "local")
    assert len(book_of(made, "va").reserved) == 2
