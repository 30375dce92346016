"""A signed run through real hospitals: checks, gate, model at home. No network here."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.client.audit import read_anchors
from fedward.client.hospital import Hospital
from fedward.client.models import Models
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import QuorumLostError
from fedward.common.keys import load_key
from fedward.common.release import read_release, release_parts, sign_release
from fedward.deploy.cli import main
from fedward.server import deployed
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import simulate
from tests.deploy.heart import (
    SITES,
    Consortium,
    HospitalGrid,
    heart_disease,
    make_consortium,
)


def opened(made: Consortium) -> dict[str, Hospital]:
    return {site: made.open(site) for site in SITES}


def run(
    made: Consortium,
    config: RunConfig,
    folder: Path,
    hospitals: dict[str, Hospital] | None = None,
    *,
    report: bool = False,
) -> list[str]:
    text = made.signed(config)
    grid = HospitalGrid(hospitals or opened(made), text)
    lines: list[str] = []
    here = Coordinator(made.server, grid, grid.nodes, lines.append)
    run_request(made.read(text), here, folder, report=report)
    return lines


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "scaffold"])
@pytest.mark.parametrize("vectorised", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_the_same_configuration_simulated_and_deployed_gives_the_same_model(
    tmp_path: Path, data_dir: Path, strategy: str, vectorised: str
) -> None:
    overrides = [f"strategy.name={strategy}", f"engine.vectorised={vectorised}"]
    if strategy == "fedbn":
        overrides += ["model.name=mlp", "model.hidden=[8]", "model.norm=layer"]
    config = heart_disease(*overrides)
    run(make_consortium(tmp_path / "c", data_dir), config, tmp_path / "deployed")
    here = simulate(
        config, base_dir=find_config("heart_disease").parent, out=tmp_path / "runs", report=False
    )
    deployed = load_file(tmp_path / "deployed" / "model.safetensors")
    simulated = load_file(here.folder / "model.safetensors")
    assert deployed.keys() == simulated.keys()
    for name, value in deployed.items():
        np.testing.assert_allclose(value, simulated[name], rtol=0, atol=1e-6)


def test_a_deployed_run_leaves_the_same_folder_as_a_simulated_one(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    config = heart_disease("baselines=[local,pooled]")
    lines = run(made, config, tmp_path / "run", report=True)
    assert [line for line in lines if line.startswith("baseline pooled: left out")]
    folder = tmp_path / "run"
    for name in (
        "config.yaml", "history.jsonl", "summary.json", "report.html", "plots",
        "checkpoints", "model.safetensors", "model_card.md", "audit.jsonl",
    ):  # fmt: skip
        assert (folder / name).exists(), name
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["engine"] == "deployed"
    assert summary["operator"] == "anna"
    assert set(summary["sites"]) == set(SITES)
    assert summary["baselines"]["local"]["global"]["metrics"]["auroc"]["value"] > 0.6
    assert load_run_config(folder / "config.yaml").config.rounds == 3
    assert [line for line in lines if line.startswith("round 3/3: 4 of 4 sites")]
    assert [line for line in lines if line == "model to va: ok"]


def test_every_hospital_has_the_model_when_the_coordinator_is_gone(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    run(made, heart_disease(), tmp_path / "run")
    expected = load_file(tmp_path / "run" / "model.safetensors")
    for site in SITES:
        models = Models(made.folder / site / "site.sqlite", site)
        (entry,) = models.entries()
        assert entry.name == "heart-disease"
        kept = models.load(entry.name).state
        for name, value in expected.items():
            np.testing.assert_array_equal(kept[name].numpy(), value)


def test_heads_of_the_audit_logs_are_anchored_on_both_sides(tmp_path: Path, data_dir: Path) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    hospitals = opened(made)
    run(made, heart_disease(), tmp_path / "run", hospitals)
    trail = hospitals["va"].trail
    assert trail.verify(model_key=made.server.roster.model_key) == []
    assert trail.anchors(), "none came back from the coordinator"
    seen = read_anchors(tmp_path / "run" / "audit.jsonl", "va")
    assert len(seen) >= 3
    assert trail.verify(seen) == []


def test_a_run_beyond_a_sites_limits_goes_on_without_it_and_names_the_rule(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    yaml = made.site_yaml("va")
    yaml.write_text(yaml.read_text().replace("epochs: 5", "epochs: 1"), encoding="utf-8")
    run(made, heart_disease("local.epochs=2"), tmp_path / "run")
    refused = [
        line["reason"]
        for line in read_history(tmp_path / "run" / "history.jsonl")
        if line["status"] == "failed"
    ]
    assert refused
    assert all("limits.epochs" in reason for reason in refused)
    events = [entry["event"] for entry in made.open("va").trail.entries()]
    assert "refused" in events
    assert "let out" not in events


def test_a_request_that_nobody_of_the_roster_signed_reaches_no_patient(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    text = made.signed(heart_disease())
    forged = text.replace('"rounds":3', '"rounds":4')
    assert forged != text
    hospitals = opened(made)
    grid = HospitalGrid(hospitals, forged)
    here = Coordinator(made.server, grid, grid.nodes, lambda line: None)
    with pytest.raises(QuorumLostError, match="signature"):
        run_request(made.read(text), here, tmp_path / "run")
    assert "let out" not in [entry["event"] for entry in hospitals["va"].trail.entries()]


def test_a_site_that_was_away_takes_the_model_from_the_runs_folder(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "RELEASE_EVERY_S", 0.1)
    monkeypatch.setattr(deployed, "RELEASE_PATIENCE_S", 0.5)
    made = make_consortium(tmp_path / "c", data_dir)
    hospitals = opened(made)

    def away(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(hospitals["va"], "_receive_model", away)
    lines = run(made, heart_disease(), tmp_path / "run", hospitals)
    assert [line for line in lines if line.startswith("model to va: the site could not")]
    database = made.folder / "va" / "site.sqlite"
    assert Models(database, "va").entries() == []
    command = ["model", "receive", str(tmp_path / "run" / "release.safetensors")]
    assert main([*command, "--site", str(made.site_yaml("va"))]) == 0
    assert [entry.name for entry in Models(database, "va").entries()] == ["heart-disease"]


def test_a_model_that_the_coordinator_did_not_sign_is_not_taken(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_consortium(tmp_path / "c", data_dir)
    run(made, heart_disease(), tmp_path / "run")
    release, _ = read_release(tmp_path / "run" / "release.safetensors")
    forged = tmp_path / "forged.safetensors"
    key = load_key(made.folder / "anna.key")
    forged.write_bytes(b"".join(release_parts(release, sign_release(release, key))))
    command = ["model", "receive", str(forged), "--site", str(made.site_yaml("va"))]
    assert main(command) == 4
    assert "signature" in capsys.readouterr().err
