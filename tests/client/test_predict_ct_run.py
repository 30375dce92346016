"""From a run on phantoms to predictions for one hospital's scans, by the commands."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedward.client.scan_report import calibration_of
from fedward.common.config.loader import load_run_config
from fedward.common.errors import StorageError
from fedward.deploy.cli import main
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import simulate
from tests.client.dicom_files import Geometry, body, write_series


@pytest.mark.slow
def test_a_run_predicts_for_a_hospitals_scans_and_knows_its_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDWARD_CACHE_DIR", str(tmp_path / "cache"))
    file = find_config("uscnet_phantom")
    fast = [
        "engine.name=inprocess", "baselines=[]", "rounds=1", "sampling.min_replies=2",
        "data.phantom.patients={north: 12, east: 12}",
    ]  # fmt: skip
    run = simulate(load_run_config(file, fast).config, base_dir=file.parent, out=tmp_path / "runs")
    (site,) = (tmp_path / "cache").rglob("north/patients.csv")
    out = tmp_path / "out"
    arguments = ["--model", str(run.folder), "--input", str(site.parent), "--out", str(out)]
    capsys.readouterr()

    assert main(["predict", *arguments, "--json"]) == 0

    counts = json.loads(capsys.readouterr().out)
    assert (counts["patients"], counts["series"], counts["files_not_used"]) == (12, 12, 0)
    facts = json.loads((out / "measurements.json").read_text())
    assert facts["calibration"]["known"]
    assert facts["calibration"]["sites"].keys() == {"north", "east"}
    expected = run.summary["global"]["metrics"]["ece"]["value"]
    assert facts["calibration"]["expected_calibration_error"]["value"] == expected
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["patient"]) == list(pd.read_csv(site)["patient"])
    known = table.dropna()
    sums = known["probability_non-infectious"] + known["probability_infectious"]
    assert len(known) == 12 - counts["patients_without"]
    np.testing.assert_allclose(sums, 1)

    text = (tmp_path / "out2", site.parent / "patients.csv")
    arguments = ["--model", str(run.folder), "--input", str(text[1]), "--out", str(text[0])]
    assert main(["predict", *arguments]) == 3
    assert "a folder of DICOM or NIfTI" in capsys.readouterr().err


@pytest.mark.slow
def test_a_scan_that_cannot_be_read_ends_with_site_data_and_shows_no_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedward.client.bundle import write_bundle
    from tests.client.test_bundle_images import UNET, trained

    bundle = write_bundle(trained(UNET, spacing_mm=[1, 1, 1]), tmp_path / "bundle")
    write_series(tmp_path / "in" / "MILLER", body() + np.int16(1024), Geometry(), patient="MILLER")
    place = ["--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(["predict", "--model", str(bundle), *place]) == 3
    shown = capsys.readouterr()
    assert "MILLER" not in shown.out + shown.err
    assert "quarantine.csv" in shown.err

    write_series(tmp_path / "in" / "ok", body(), Geometry(), patient="SMITH")
    assert main(["predict", "--model", str(bundle), *place]) == 0
    shown = capsys.readouterr()
    assert "1 series of 1 patients" in shown.out
    assert "12 files not used" in shown.out
    assert "SMITH" not in shown.out + shown.err


def test_calibration_is_not_known_without_a_run(tmp_path: Path) -> None:
    assert not calibration_of(None)["known"]
    assert not calibration_of(tmp_path)["known"]
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(StorageError, match="summary"):
        calibration_of(tmp_path)
