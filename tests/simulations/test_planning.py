"""A network planned from what all sites' scans have in common, through the real loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedward.deploy.cli import main

SCHEMA = """\
version: 1
name: tubes
patient_id: patient
exclude: [clinic, pixel_spacing_mm]
min_cohort: 1
image: {structures: [tube], lesion: tube}
"""
RUN = """\
version: 1
name: tubes
seed: 1
task: ct-lesions
data:
  root: .
  schema: tubes.yaml
  partition: {table: tubes.npz, by: column, column: clinic}
  image: {size: [32, 32], rows: slice, window: [-1000, 1000]}
model: {name: basic-unet, features: [4, 4, 4, 4, 4, 4]}
loss: {weights: fixed}
strategy: {name: fedavg}
rounds: 1
local: {epochs: 1, batch_size: 4, optimizer: adamw, learning_rate: 0.001}
sampling: {min_replies: 2}
engine: {name: inprocess}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    images = rng.normal(0, 20, (40, 48, 48)).astype(np.int16)
    masks = np.zeros(images.shape, dtype=np.uint8)
    masks[:, 20:28, 20:28] = 1
    images[:, 20:28, 20:28] += 500
    np.savez(
        tmp_path / "tubes.npz",
        images=images,
        masks=masks,
        patient=np.arange(40),
        clinic=np.array(["east", "west"])[np.arange(40) % 2],
        pixel_spacing_mm=np.full(40, 0.5, dtype=np.float32),
    )
    (tmp_path / "tubes.yaml").write_text(SCHEMA)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def test_the_plan_is_of_all_sites_and_can_be_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, planned = str(folder / "runs"), folder / "planned.yaml"
    command = ["plan", str(folder / "run.yaml"), "--runs", runs, "--out", str(planned), "--json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    # 20 patients at each clinic, of whom 30 % are held out.
    assert facts["patients"] == 28
    assert facts["model"]["name"] == "nnunet"
    low, high = facts["data"]["image"]["window"]
    assert low < 500 < high
    assert facts["data"]["image"]["spacing_mm"] == [0.5, 0.5]
    again = yaml.safe_load(planned.read_text())
    assert again["task"] == "ct-lesions"
    assert again["data"]["partition"]["column"] == "clinic"
    assert main(["simulate", str(planned), "--out", runs, "--set", "local.batch_size=4"]) == 0


def test_a_plan_from_another_run_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(folder / "runs")
    assert main(["simulate", str(folder / "run.yaml"), "--out", runs]) == 0
    latest = str(folder / "runs" / "latest")
    assert main(["plan", str(folder / "run.yaml"), "--runs", runs, "--from", latest]) == 2
    assert "not a finished run of the task ct-fingerprint" in capsys.readouterr().err


def test_the_first_run_can_be_written_for_hospitals(folder: Path) -> None:
    written = folder / "fingerprint.yaml"
    assert main(["plan", str(folder / "run.yaml"), "--fingerprint", str(written)]) == 0
    assert yaml.safe_load(written.read_text())["task"] == "ct-fingerprint"
