"""Three hospitals with CT, for the tests: from files on disk to a coordinator; no network."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fedward.client.hospital import Hospital, open_hospital
from fedward.common.config.consortium import load_consortium
from fedward.common.config.image import PhantomConfig
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.deployment import make_request
from fedward.common.keys import load_key, make_key, write_private
from fedward.common.request import sign_request
from fedward.deploy.cli import main
from fedward.deploy.provision import provision
from fedward.server.deployed import Coordinator, run_request
from fedward.synth.phantom.cohort import make_cohort
from tests.deploy.consortium import NOW
from tests.deploy.heart import Consortium, HospitalGrid, pin

NUM_PATIENTS = 14
MIN_COHORT = 5
SITES = ("north", "south", "west")
GONE = "north-00003"
SITE_YAML = """\
version: 1
site: {site}
data:
  path: scans
  format: ct
  cache: kept
  schema: ct-stones
  exclude: withdrawn.txt
approve: any
min_cohort: 5
device: cpu
limits: {{epochs: 5, min_replies: 2}}
"""
RUN = """\
version: 1
name: stones
seed: 1
task: ct-lesions
data:
  root: .
  schema: ct-stones
  sites: {north: {file: north}, south: {file: south}, west: {file: west}}
  image: {size: [32, 32, 32], spacing_mm: [1, 1, 1], window: [-400, 2000], augment: flips}
  validation_fraction: 0.2
  test_fraction: 0.4
model:
  name: uscnet
  preset: smoke
  hidden: 24
  layers: 3
  heads: 2
  mlp_dim: 48
  patch: 8
  feature_size: 4
  sma_layers: [3]
  head: [16]
  head_dropout: [0.0]
strategy: {name: fedavg}
rounds: 2
local: {epochs: 1, batch_size: 4, optimizer: adamw, learning_rate: 0.001}
sampling: {min_replies: 2}
engine: {name: inprocess}
"""


@dataclass(frozen=True)
class Made:
    """Three hospitals, and what a simulation of the same reads."""

    folder: Path
    consortium: Consortium

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def config(self) -> RunConfig:
        return load_run_config(self.folder / "run.yaml").config

    def home(self, site: str) -> Path:
        return self.folder / site

    def hospital(self, site: str) -> Hospital:
        return open_hospital(self.home(site) / "site.yaml", self.consortium.kit(site))

    def run(self, config: RunConfig, out: Path) -> list[str]:
        request = make_request(config, "anna", base_dir=self.folder, consortium="stones")
        text = sign_request(request, load_key(self.folder / "anna.key"))
        grid = HospitalGrid({site: self.hospital(site) for site in SITES}, text)
        lines: list[str] = []
        here = Coordinator(self.consortium.server, grid, grid.nodes, lines.append)
        run_request(self.consortium.read(text), here, out)
        return lines


def phantoms(folder: Path) -> None:
    for files, sites in (("dicom", SITES[:2]), ("nifti", SITES[2:])):
        config = PhantomConfig.model_validate(
            {
                "kind": "stones",
                "patients": dict.fromkeys(sites, NUM_PATIENTS),
                "size": 40,
                "files": files,
                "seed": 7,
            }
        )
        made = make_cohort(config, folder / files)
        for site in sites:
            (folder / site).mkdir()
            (made / site).rename(folder / site / "scans")


@contextmanager
def hospitals(folder: Path) -> Iterator[Made]:
    """Three hospitals that have not read a scan yet, and a cache of their own for simulations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDWARD_CACHE_DIR", str(folder / "cache"))
        yield _prepared(folder)


def _prepared(folder: Path) -> Made:
    """Make scans, keys and settings."""
    phantoms(folder)
    make_south_incomplete(folder / "south" / "scans")
    lines = []
    for site in SITES:
        home = folder / site
        (home / "site.yaml").write_text(SITE_YAML.format(site=site), encoding="utf-8")
        (home / "withdrawn.txt").write_text(f"{GONE}\n", encoding="utf-8")
        write_private(home / "id-salt", bytes(range(32)))
        key = make_key(home / "site.key")
        lines.append(f"  - {{name: {site}, public_key: '{key}', cohort_bound: 100}}\n")
    anna = make_key(folder / "anna.key")
    (folder / "consortium.yaml").write_text(
        "version: 1\nname: stones\nserver: {address: '127.0.0.1:9', names: [localhost]}\n"
        f"operators: [{{name: anna, public_key: '{anna}'}}]\nsites:\n" + "".join(lines)
    )
    provision(load_consortium(folder / "consortium.yaml"), folder / "kits", now=NOW)
    consortium = Consortium(folder, folder / "kits")
    for site in SITES:
        pin(consortium, site)
    (folder / "run.yaml").write_text(RUN, encoding="utf-8")
    return Made(folder, consortium)


def make_south_incomplete(scans: Path) -> None:
    """Take the masks of eight patients away, the rows of three others, and the scans of two."""
    for number in range(1, 9):
        (mask,) = (scans / name_of("south", number)).rglob("*struct*")
        mask.unlink()
    for number in (9, 10):
        shutil.rmtree(scans / name_of("south", number))
    frame = pd.read_csv(scans / "patients.csv")
    gone = [name_of("south", number) for number in (12, 13, 14)]
    frame[~frame["patient"].isin(gone)].to_csv(scans / "patients.csv", index=False)


def name_of(site: str, number: int) -> str:
    return f"{site}-{number:05d}"


def copy_of(home: Path, folder: Path) -> Path:
    """Return a copy of a site's folder that has read no scan yet."""
    copied = folder / home.name
    shutil.copytree(home, copied, ignore=shutil.ignore_patterns("kept", "*.sqlite*", "socket"))
    return copied


def shift(patient: Path) -> None:
    """Write the images of a patient as a scanner stores them: 1024 too high for HU."""
    (path,) = (one for one in patient.iterdir() if "mask" not in one.name)
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj).astype(np.int16) + np.int16(1024)
    nib.save(nib.Nifti1Image(values, image.affine), path)  # type: ignore[no-untyped-call]


def checked(
    home: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    arguments = ["check", str(home / "site.yaml"), "--run", str(made.folder / "run.yaml")]
    main([*arguments, "--json"])
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}
