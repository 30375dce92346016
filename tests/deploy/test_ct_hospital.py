"""Hospitals with CT, from DICOM and NIfTI files to the model: checks, gate; no network here."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from fedward.client.audit import AuditTrail
from fedward.client.cohort import read_salt, runs_of
from fedward.client.report_form import COUNTS, FIGURES
from fedward.client.suppression import suppress
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.common.tables.split import held_out_rows
from fedward.common.task import Split
from fedward.deploy.cli import main
from fedward.server.history import read_history
from fedward.simulations.simulate import simulate
from tests.deploy.ct_hospitals import (
    GONE,
    MIN_COHORT,
    NUM_PATIENTS,
    SITES,
    Made,
    checked,
    copy_of,
    hospitals,
    name_of,
    shift,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Three hospitals after a run."""
    with hospitals(tmp_path_factory.mktemp("hospitals")) as found:
        found.run(found.config, found.out)
        yield found


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
