"""Modalities that some sites have, and those that nobody has, on real files."""

from pathlib import Path

import pytest

from fedward.common.config.image import PhantomConfig
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.simulations.simulate import simulate
from fedward.synth.phantom.cohort import make_cohort

RUN = """\
version: 1
name: modalities
seed: 1
task: ct-lesions
data:
  root: .
  schema: ct-stones
  sites: {north: {file: north}, south: {file: south}}
  image: {size: [16, 16, 16], spacing_mm: [2, 2, 2], window: [-400, 2000]}
  test_fraction: 0.4
model: {name: concat-fusion, depth: 18, width: 4, hidden: 8, mask: false}
shared: ["trunk.*", "of_image.*"]
strategy: {name: fedavg}
rounds: 1
local: {epochs: 1, batch_size: 4, optimizer: adamw, learning_rate: 0.001}
engine: {name: inprocess}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDWARD_CACHE_DIR", str(tmp_path / "cache"))
    patients = {"north": 10, "south": 10}
    made = make_cohort(
        PhantomConfig.model_validate(
            {"kind": "stones", "patients": patients, "size": 32, "files": "nifti", "seed": 7}
        ),
        tmp_path / "phantoms",
    )
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    for site in patients:
        (made / site).rename(tmp_path / site)
    return tmp_path


def without_rows(table: Path) -> None:
    table.write_text(table.read_text().splitlines()[0] + "\n")


def test_what_one_site_lacks_is_trained_at_the_other_and_what_nobody_has_is_refused(
    folder: Path,
) -> None:
    config = load_run_config(folder / "run.yaml").config
    without_rows(folder / "north" / "patients.csv")
    done = simulate(config, base_dir=folder, out=folder / "runs", report=False)
    assert done.summary["stopped_by"] == "rounds"
    without_rows(folder / "south" / "patients.csv")
    with pytest.raises(ConfigError, match="concat-fusion looks at table, which no row of any of"):
        simulate(config, base_dir=folder, out=folder / "none")
    assert not any((folder / "none").iterdir()), "nothing was begun"
    images = load_run_config(folder / "run.yaml", ["data.modalities=[image]"]).config
    assert simulate(images, base_dir=folder, out=folder / "runs").summary["stopped_by"] == "rounds"
