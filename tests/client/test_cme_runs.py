"""Whole simulations with CME: what lies in the run's folder, and that resuming changes nothing."""

from pathlib import Path

import numpy as np
import pytest

from fedward.common.errors import ConfigError
from fedward.common.monitoring.map_files import list_maps, read_maps
from fedward.common.monitoring.telemetry import ROUNDED_TO
from fedward.server.history import read_history
from fedward.simulations.simulate import simulate
from tests.client.cme_trainers import LAYER, QUICKSTART, config

SHORT = ("rounds=2", "local.epochs=4", "local.batch_size=64")


def run(out: Path, *overrides: str) -> Path:
    return simulate(config(*SHORT, *overrides), base_dir=QUICKSTART.parent, out=out).folder


def figures(folder: Path) -> dict[tuple[int, str], dict[str, float]]:
    lines = read_history(folder / "history.jsonl")
    return {
        (line["round"], line["site"]): line["cme"][LAYER]
        for line in lines
        if line["phase"] == "train" and line["site"] is not None and "cme" in line
    }


@pytest.mark.slow
def test_a_simulation_collects_the_maps_only_where_it_is_asked_to(tmp_path: Path) -> None:
    with_maps = run(tmp_path / "a", "monitor.cme.maps=true", "baselines=[local,pooled]")
    files = list_maps(with_maps / "cme")
    assert len(files) == 5
    assert {tuple(rounds) for rounds in files.values()} == {(1, 2)}, "a baseline is not watched"
    without = run(tmp_path / "b", "monitor.cme=true")
    assert not (without / "cme").exists()
    told = figures(with_maps)
    assert told == figures(without)
    for (number, site), found in told.items():
        exact = read_maps(files[site][number])[LAYER].figures.to_json()
        assert found.keys() == exact.keys()
        for name, value in found.items():
            assert abs(value - exact[name]) <= ROUNDED_TO[name] / 2 + 1e-6
            assert value == pytest.approx(round(value / ROUNDED_TO[name]) * ROUNDED_TO[name])
    assert len(told) == 10


@pytest.mark.slow
def test_stacked_and_plain_simulations_tell_the_same(tmp_path: Path) -> None:
    plain, stacked = (
        figures(run(tmp_path / mode, "monitor.cme=true", f"engine.vectorised={mode}"))
        for mode in ("off", "auto")
    )
    assert plain.keys() == stacked.keys()
    for key, found in plain.items():
        for name, value in found.items():  # rounding may fall to either side
            assert abs(stacked[key][name] - value) <= ROUNDED_TO[name] + 1e-9


@pytest.mark.slow
def test_watching_changes_neither_the_model_nor_the_figures_of_the_run(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a"), run(tmp_path / "b", "monitor.cme=true")]
    one, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == other
    losses = [
        [line["metrics"] for line in read_history(folder / "history.jsonl")] for folder in folders
    ]
    assert losses[0] == losses[1]


def test_a_layer_that_the_model_does_not_have_ends_the_run_before_it_begins(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'body\.2\.weight'"):
        run(tmp_path, "monitor.cme.layers=[body.2.wait]")


@pytest.mark.slow
def test_the_loss_on_validation_patients_is_in_the_history(tmp_path: Path) -> None:
    lines = read_history(run(tmp_path, "data.validation_fraction=0.2") / "history.jsonl")
    told = [line["metrics"] for line in lines if line["phase"] == "evaluate"]
    assert told
    losses = np.array([[one["validation_loss"], one["eval_loss"]] for one in told])
    assert np.isfinite(losses).all()
    assert (losses[:, 0] != losses[:, 1]).all()
