"""Hospitals with CT, from DICOM and NIfTI files to the model: checks, gate; no network here."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients, read_salt, record_cohort, runs_of
from fedward.client.data.source import site_source
from fedward.client.hospital import Hospital, open_hospital
from fedward.client.report_form import COUNTS, FIGURES
from fedward.client.retention import tidy_scans
from fedward.client.suppression import suppress
from fedward.common.config.consortium import load_consortium
from fedward.common.config.image import PhantomConfig
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.config.site import load_site_config
from fedward.common.deployment import make_request
from fedward.common.errors import ConfigError
from fedward.common.keys import load_key, make_key, write_private
from fedward.common.request import sign_request
from fedward.common.tables.split import held_out_rows
from fedward.common.task import Split
from fedward.deploy.cli import main
from fedward.deploy.provision import provision
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from fedward.simulations.simulate import simulate
from fedward.synth.phantom.cohort import make_cohort
from tests.deploy.consortium import NOW
from tests.deploy.heart import Consortium, HospitalGrid, pin

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("hospitals")
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDWARD_CACHE_DIR", str(folder / "cache"))
        found = Made(folder, consortium)
        found.run(found.config, found.out)
        yield found


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


def without_who_withdrew(made: Made) -> Path:
    """Return a folder for a simulation, in which the withdrawn patient never was."""
    folder = made.folder / "simulated"
    for site in SITES:
        shutil.copytree(made.home(site) / "scans", folder / site)
    shutil.rmtree(folder / "north" / GONE)
    frame = pd.read_csv(folder / "north" / "patients.csv")
    frame[frame["patient"] != GONE].to_csv(folder / "north" / "patients.csv", index=False)
    return folder


def test_the_same_file_simulated_gives_the_same_model(made: Made) -> None:
    config = load_run_config(made.folder / "run.yaml", ["data.root=simulated"]).config
    without_who_withdrew(made)
    here = simulate(config, base_dir=made.folder, out=made.folder / "runs")
    simulated = load_file(here.folder / "model.safetensors")
    deployed = load_file(made.out / "model.safetensors")
    assert deployed.keys() == simulated.keys()
    for name, value in deployed.items():
        np.testing.assert_allclose(value, simulated[name], rtol=0, atol=1e-5)


def test_only_the_model_counts_and_allowed_figures_leave(made: Made) -> None:
    for site in SITES:
        entries = list(AuditTrail(made.home(site) / "site.sqlite").entries())
        let_out = [
            entry
            for entry in entries
            if entry["event"] == "let out" and "fingerprint" not in entry["run_key"]
        ]
        # The sums for scaling once, and of two rounds the update and the figures.
        assert len(let_out) == 1 + 2 + 2
        assert {array["name"] for facts in let_out for array in facts["arrays"]} == {
            "sums",
            "parameters",
        }
        reported = {key for facts in let_out for key in facts["report"]}
        assert reported <= COUNTS | FIGURES | {"calibration"}


def test_figures_of_masks_leave_only_where_enough_patients_have_one(made: Made) -> None:
    evaluated = [
        line
        for line in read_history(made.out / "history.jsonl")
        if line["phase"] == "evaluate" and line["round"] == 2 and line["site"]
    ]
    assert {line["site"] for line in evaluated} == set(SITES)
    for line in evaluated:
        table = made.hospital(line["site"])._source(made.config.data.image).read()
        split = Split(made.config.seed, made.config.data.test_fraction)
        tested = table.take(held_out_rows(table, split, site=line["site"]))
        masked = np.unique(tested.patient_id[tested.arrays["has.mask"]])
        labelled = np.unique(tested.patient_id[tested.arrays["has.label"]])
        total = len(np.unique(tested.patient_id))
        assert line["num_examples"] == total
        for known, figure in ((masked, "dice"), (labelled, "brier")):
            cells = (len(known), total - len(known))
            is_safe = len(known) > 0 and not any(0 < cell < MIN_COHORT for cell in cells)
            assert (figure in line["metrics"]) == is_safe, (line["site"], figure, cells)
    figures = {line["site"]: set(line["metrics"]) for line in evaluated}
    assert "dice" in figures["north"]
    assert not figures["south"] & {"dice", "iou", "hd95_mm", "lesion_sensitivity"}


def test_figures_of_classes_stay_where_a_few_patients_have_no_label() -> None:
    def cleared(labelled: int) -> float | None:
        figures = {"brier": {"value": 0.2, "n": labelled}, "dice": {"value": 0.7, "n": 20}}
        report, _ = suppress({"metrics": figures}, num_patients=20, k=MIN_COHORT)
        assert report["metrics"]["dice"]["value"] == 0.7
        value: float | None = report["metrics"]["brier"]["value"]
        return value

    assert [cleared(20), cleared(18), cleared(15), cleared(3)] == [0.2, None, 0.2, None]


def test_a_modality_that_no_hospital_has_is_refused_before_round_1(
    made: Made, tmp_path: Path
) -> None:
    tables = [made.home(site) / "scans" / "patients.csv" for site in SITES]
    kept = [table.read_text() for table in tables]
    try:
        for table, text in zip(tables[1:], kept[1:], strict=True):
            table.write_text(text.splitlines()[0] + "\n")
        # A site of which too few patients are left does not take part, and is not waited for.
        quick = ["rounds=1", "sampling.wait_for_sites_s=0"]
        config = load_run_config(made.folder / "run.yaml", quick).config
        made.run(config, tmp_path / "some")
        tables[0].write_text(kept[0].splitlines()[0] + "\n")
        with pytest.raises(ConfigError, match=r"uscnet looks at table, which no row of any of"):
            made.run(config, tmp_path / "none")
        assert not (tmp_path / "none" / "history.jsonl").exists()
    finally:
        for table, text in zip(tables, kept, strict=True):
            table.write_text(text)


def test_a_withdrawn_patient_is_used_nowhere(made: Made) -> None:
    home = made.home("north")
    salt = read_salt(home / "id-salt")
    assert runs_of(home / "site.sqlite", GONE, salt) == []
    assert runs_of(home / "site.sqlite", name_of("north", 1), salt) != []
    source = made.hospital("north")._source(made.config.data.image)
    assert GONE not in source.patient_ids()
    assert len(source.patient_ids()) == NUM_PATIENTS - 1
    kept = b"".join(path.read_bytes() for path in (home / "kept").iterdir())
    assert GONE.encode() not in kept
    assert name_of("north", 1).encode() in kept


def test_the_same_files_pass_the_check(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    shown = checked(made.home("north"), made, capsys)
    assert [name for name, one in shown.items() if one["status"] == "fail"] == []
    assert "1 ids on the list" in shown["data.exclude"]["text"]
    assert "within the limits" in shown["config.run"]["text"]


@pytest.mark.parametrize(
    ("wrong", "finding", "text"),
    [
        ("folder", "data.scans", "there is no such folder"),
        ("table", "data.columns", "patients.csv: there is no such file"),
        ("unit", "data.voxels", "1024 too high"),
        ("extra", "config.packages", "pip install 'fedward[ct]'"),
        ("one scan", "data.left-out", "1024 too high"),
    ],
)
def test_the_check_names_what_is_wrong(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    finding: str,
    text: str,
) -> None:
    home = copy_of(made.home("west"), tmp_path)
    scans = home / "scans"
    if wrong == "folder":
        scans.rename(home / "elsewhere")
    elif wrong == "table":
        (scans / "patients.csv").unlink()
    elif wrong != "extra":
        patients = sorted(path for path in scans.iterdir() if path.is_dir())
        for patient in patients[:1] if wrong == "one scan" else patients:
            shift(patient)
    else:
        monkeypatch.setattr("fedward.client.data.source.CT_PACKAGES", ("no_such_package",))
    shown = checked(home, made, capsys)
    assert shown[finding]["status"] in ("fail", "warn")
    assert text in shown[finding]["text"]


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


def test_a_network_is_planned_from_counts_of_enough_patients(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = str(made.folder / "run.yaml"), tmp_path / "fingerprint.yaml"
    assert main(["plan", run, "--fingerprint", str(asked)]) == 0
    made.run(load_run_config(asked).config, tmp_path / "first")
    capsys.readouterr()
    assert main(["plan", run, "--from", str(tmp_path / "first"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    # Sites split 14, 14 and 13 patients; of a training part of about eight, alike in size.
    assert 15 <= plan["patients"] <= 3 * NUM_PATIENTS
    assert plan["model"]["name"] == "nnunet"
    for site in SITES:
        entries = list(AuditTrail(made.home(site) / "site.sqlite").entries())
        assert [entry for entry in entries if entry["event"] == "withheld"]


def test_what_the_check_read_for_a_run_is_not_read_again(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy_of(made.home("west"), tmp_path)
    checked(home, made, capsys)
    before = {path.name: path.stat().st_mtime_ns for path in (home / "kept").glob("*.*")}
    assert before
    site_source(load_site_config(home / "site.yaml"), image=made.config.data.image).read()
    after = {path.name: path.stat().st_mtime_ns for path in (home / "kept").glob("*.*")}
    assert before | {"quarantine.csv": 0} == after | {"quarantine.csv": 0}


def test_limits_are_judged_before_a_scan_is_read(made: Made, tmp_path: Path) -> None:
    text = (made.home("west") / "site.yaml").read_text(encoding="utf-8")
    strict = text.replace("cache: kept", "cache: unused").replace("epochs: 5", "epochs: 1")
    (made.home("west") / "site.yaml").write_text(strict, encoding="utf-8")
    config = load_run_config(made.folder / "run.yaml", ["local.epochs=2", "rounds=1"]).config
    try:
        made.run(config, tmp_path / "run")
    finally:
        (made.home("west") / "site.yaml").write_text(text, encoding="utf-8")
    lines = read_history(tmp_path / "run" / "history.jsonl")
    reasons = {line["reason"] for line in lines if line["status"] == "failed"}
    assert reasons
    assert all("limits.epochs" in reason for reason in reasons)
    assert not (made.home("west") / "unused").exists()


def test_purge_removes_the_cache_and_nothing_beside_it(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy_of(made.home("west"), tmp_path)
    checked(home, made, capsys)
    where = ["--site", str(home / "site.yaml"), "--yes"]
    (home / "kept" / "notes.txt").write_text("of somebody else")
    assert main(["site", "purge", *where]) == 0
    assert f"{home / 'kept'}  (scans as they were read, and the quarantine list)" in (
        capsys.readouterr().out
    )
    assert [path.name for path in (home / "kept").iterdir()] == ["notes.txt"]
    assert (home / "scans" / "patients.csv").exists()
    (home / "kept" / "notes.txt").unlink()
    checked(home, made, capsys)
    assert main(["site", "purge", *where]) == 0
    assert not (home / "kept").exists()


def test_of_a_patient_the_site_is_told_what_the_cache_holds(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_of(made.home("west"), tmp_path)
    first, second = name_of("west", 1), name_of("west", 2)
    shift(home / "scans" / second)
    checked(home, made, capsys)
    hashes = hash_patients([first, second], read_salt(home / "id-salt"))
    record_cohort(home / "site.sqlite", "run-1", hashes)

    def asked(patient: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{patient}\n"))
        assert main(["site", "patient", "--site", str(home / "site.yaml"), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found | {"runs": [one["run_key"] for one in found["runs"]]}

    assert asked(first) == {"runs": ["run-1"], "num_scans": 1, "num_quarantined": 0}
    assert asked(second) == {"runs": ["run-1"], "num_scans": 0, "num_quarantined": 2}
    assert asked("nobody") == {"runs": [], "num_scans": 0, "num_quarantined": 0}

    (home / "withdrawn.txt").write_text(f"{first}\n{second}\n", encoding="utf-8")
    tidy_scans(load_site_config(home / "site.yaml"))
    assert asked(first) == asked(second) == asked("nobody") | {"runs": ["run-1"]}
