"""Whole runs that protect sites: what is told, what is not, and that a resumed one is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.common.config.loader import load_run_config
from fedward.server.history import read_history
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = ["engine.name=inprocess", "baselines=[local]", "repeat=null", "rounds=3"]
PRIVATE = [
    "data.statistics=schema",
    "monitor.influence=false",
    "privacy.unit=site",
    "privacy.noise_multiplier=0.02",
    "privacy.delta=0.001",
    "privacy.max_update_norm=0.2",
]
MODES = ("central", "local")


def run(out: Path, mode: str, *overrides: str, **keys: Any) -> Run:
    config = load_run_config(QUICKSTART, [*FAST, *PRIVATE, f"privacy.mode={mode}", *overrides])
    return simulate(config.config, base_dir=QUICKSTART.parent, out=out, **keys)


def lines(finished: Run) -> list[dict[str, Any]]:
    return read_history(finished.folder / "history.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {mode: run(tmp_path_factory.mktemp(mode), mode) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_every_site_is_told_what_was_spent_and_that_the_unit_is_the_site(
    mode: str, finished: dict[str, Run]
) -> None:
    summary = finished[mode].summary
    claim = summary["privacy"]
    assert claim["unit"].startswith("site")
    assert claim["mode"] == mode
    told = {found["epsilon"] for found in summary["sites"].values()}
    assert told == {claim["epsilon"]}
    assert any("seed" in warning for warning in claim["warnings"])
    in_report = (finished[mode].folder / "report.html").read_text(encoding="utf-8")
    assert "Every hospital was promised at most epsilon" in in_report


@pytest.mark.parametrize("mode", MODES)
def test_no_loss_of_training_patients_is_told(mode: str, finished: dict[str, Run]) -> None:
    assert not any("train_loss" in line.get("metrics", {}) for line in lines(finished[mode]))


def test_the_server_accounts_for_its_noise_and_a_site_for_its_own(
    finished: dict[str, Run],
) -> None:
    spent = {
        mode: [line["site"] for line in lines(found) if "epsilon" in line and line["round"] == 3]
        for mode, found in finished.items()
    }
    assert spent["central"] == [None]
    assert None not in spent["local"]
    assert len(spent["local"]) == len(finished["local"].summary["sites"])


def test_with_little_noise_hospitals_learn_more_than_chance(tmp_path: Path) -> None:
    few = run(tmp_path, "central", "baselines=[]", "rounds=6", "privacy.max_update_norm=2.0")
    assert few.summary["global"]["metrics"]["auroc"]["low"] > 0.6, "0.5 is chance"


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_equals_one_that_was_not_interrupted_and_has_spent_as_much(
    mode: str, finished: dict[str, Run], tmp_path: Path
) -> None:
    cut = run(tmp_path, mode, "baselines=[]")
    newest = max((cut.folder / "checkpoints").iterdir())
    newest.unlink()
    resumed = run(tmp_path, mode, "baselines=[]", resume=cut.folder)
    for name, tensor in load_file(resumed.folder / "model.safetensors").items():
        whole = load_file(finished[mode].folder / "model.safetensors")[name]
        np.testing.assert_array_equal(tensor, whole)
    assert resumed.summary["privacy"]["epsilon"] == finished[mode].summary["privacy"]["epsilon"]
