"""Adapters at hospitals: they take part only with the network that the adapters belong to."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedward.common.errors import QuorumLostError
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from tests.deploy.heart import SITES, Consortium, HospitalGrid, heart_disease, make_consortium

SMALL = ("model={name: mlp, hidden: [16, 8]}", "rounds=1")


@pytest.fixture
def made(tmp_path: Path, data_dir: Path) -> Consortium:
    return make_consortium(tmp_path / "c", data_dir)


def run(made: Consortium, folder: Path, *changes: str) -> None:
    text = made.signed(heart_disease(*SMALL, *changes))
    grid = HospitalGrid({site: made.open(site) for site in SITES}, text)
    run_request(
        made.read(text), Coordinator(made.server, grid, grid.nodes, print), folder, report=False
    )


def test_hospitals_train_adapters_of_a_model_that_they_were_sent_before(
    made: Consortium, tmp_path: Path
) -> None:
    run(made, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    adapters = (f"model.init={file}", "model.lora={rank: 2}", "name=adapters", "rounds=2")
    run(made, tmp_path / "adapters", *adapters)
    before, after = load_file(file), load_file(tmp_path / "adapters" / "model.safetensors")
    assert any((after[name] != before[name]).any() for name in before)
    kept = made.open("va")._models.load("adapters")
    for name, tensor in kept.state.items():
        np.testing.assert_allclose(tensor.numpy(), after[name], atol=1e-6)
    lines = read_history(tmp_path / "adapters" / "history.jsonl")
    asked = [line for line in lines if line["phase"] == "train" and line["site"]]
    assert all(line["status"] == "ok" for line in asked)


def test_a_hospital_without_the_network_takes_no_part(made: Consortium, tmp_path: Path) -> None:
    run(made, tmp_path / "base")
    other = {name: tensor + 1 for name, tensor in _weights(tmp_path / "base").items()}
    save_file(other, tmp_path / "other.safetensors")
    adapters = (f"model.init={tmp_path / 'other.safetensors'}", "model.lora={rank: 2}")
    with pytest.raises(QuorumLostError, match="that this site has not"):
        run(made, tmp_path / "adapters", *adapters)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_a_hospital_with_a_network_of_its_own_pulls_the_merged_model(
    made: Consortium, tmp_path: Path
) -> None:
    own = ("models.va={name: mlp, hidden: [4, 8]}", "shared=[head.*]")
    run(made, tmp_path / "run", *own)
    for site, width in (("va", 4), ("cleveland", 16)):
        kept = made.open(site)._models.load("heart-disease")
        network = kept.network()
        assert network.state_dict()["body.0.weight"].shape[0] == width
        assert kept.parts == "site"
    shared = load_file(tmp_path / "run" / "model.safetensors")["head.weight"]
    np.testing.assert_array_equal(network.state_dict()["head.weight"].numpy(), shared)
