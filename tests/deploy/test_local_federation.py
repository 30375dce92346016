"""`deploy/local_federation.sh`: real processes over TLS, against a simulation of the same file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.common.config.loader import load_run_config
from fedward.simulations.simulate import simulate

ROOT = Path(__file__).parents[2]
RUN = """\
version: 1
name: three-hospitals
seed: 5
task: ehr-classification
data:
  root: {folder}
  schema: heart-disease
  sites:
    cleveland: {{file: cleveland/patients.csv}}
    hungarian: {{file: hungarian/patients.csv}}
    va: {{file: va/patients.csv}}
model: {{name: mlp, hidden: [8], dropout: 0.1}}
strategy: {{name: fedprox, proximal_mu: 0.1}}
rounds: 2
local: {{epochs: 2, batch_size: 16, learning_rate: 0.05}}
sampling: {{min_replies: 3}}
engine: {{name: inprocess}}
"""


@pytest.mark.network
@pytest.mark.slow
def test_three_hospitals_over_tls_train_the_model_that_a_simulation_of_the_file_trains(
    tmp_path: Path, data_dir: Path
) -> None:
    folder, run = tmp_path / "trial", tmp_path / "run.yaml"
    run.write_text(RUN.format(folder=folder), encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "deploy" / "local_federation.sh", folder, run],
        env={**os.environ, "PATH": path, "FEDWARD_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("ok: every entry is as it was written") == 3
    (deployed,) = (one.parent for one in (folder / "coordinator").glob("runs/*/summary.json"))
    summary = json.loads((deployed / "summary.json").read_text())
    assert summary["rounds_run"] == 2
    assert summary["rejected"] == []
    simulated = simulate(load_run_config(run).config, base_dir=tmp_path, out=tmp_path / "runs")
    here = load_file(simulated.folder / "model.safetensors")
    there = load_file(deployed / "model.safetensors")
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=0, atol=1e-6)
    for site, found in simulated.summary["sites"].items():
        auroc = summary["sites"][site]["metrics"]["auroc"]["value"]
        assert auroc == pytest.approx(found["metrics"]["auroc"]["value"], abs=1e-9)
