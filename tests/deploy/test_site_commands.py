"""The hospital's commands: check, site patient, model, predict."""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import load_file

from fedward.client.approvals import RosterPins
from fedward.client.cohort import hash_patients, record_cohort
from fedward.client.models import Models
from fedward.common.config.loader import resolved_yaml
from fedward.common.keys import public_text
from fedward.common.origin import Origin
from fedward.common.release import sign_release
from fedward.deploy.commands import model, site
from fedward.simulations.cli import guarded
from tests.client.clinic import clinic_frame
from tests.client.clinic_site import (
    SALT,
    SITE,
    ClinicSite,
    make_site,
    provide_kit,
    release,
    run_config,
    study,
)


@pytest.fixture
def clinic(tmp_path: Path) -> ClinicSite:
    return make_site(tmp_path)


@pytest.fixture
def released(clinic: ClinicSite) -> ClinicSite:
    """A site that was sent a model."""
    key = ec.generate_private_key(ec.SECP384R1())
    given = release(study())
    models = Models(clinic.database, SITE)
    models.receive(
        given.to_records(sign_release(given, key)), model_key=public_text(key.public_key())
    )
    models.close()
    return clinic


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    site.add(commands)
    model.add(commands)
    args = parser.parse_args([str(word) for word in words])
    return guarded(lambda: int(args.command(args)))


def test_check_passes_a_sound_site(clinic: ClinicSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", clinic.folder / "site.yaml") == 0
    shown = capsys.readouterr().out
    assert "data.patients" in shown
    assert "40 patients" in shown
    assert "FAIL" not in shown


def test_check_ends_with_3_where_the_data_fail(
    clinic: ClinicSite, capsys: pytest.CaptureFixture[str]
) -> None:
    clinic.rewrite(clinic_frame(40).assign(creatinine=1.2345))
    assert run("check", clinic.folder / "site.yaml") == 3
    shown = capsys.readouterr().out
    assert "another unit" in shown
    assert "1.2345" not in shown


def test_check_ends_with_4_where_the_server_is_not_reached(clinic: ClinicSite) -> None:
    provide_kit(clinic)
    pins = RosterPins(clinic.database)
    pins.pin_roster(clinic.kit.roster)
    pins.close()
    assert run("check", clinic.folder / "site.yaml", "--kit", clinic.kit.folder) == 4


def test_check_ends_with_2_where_the_run_asks_for_too_much(
    clinic: ClinicSite, capsys: pytest.CaptureFixture[str]
) -> None:
    file = clinic.folder / "run.yaml"
    file.write_text(resolved_yaml(run_config(local={"epochs": 9})), encoding="utf-8")
    assert run("check", clinic.folder / "site.yaml", "--run", file) == 2
    assert "asks for 9, the site allows 5" in capsys.readouterr().out


def test_check_ends_with_2_where_site_yaml_is_wrong(clinic: ClinicSite) -> None:
    (clinic.folder / "site.yaml").write_text("version: 1\n", encoding="utf-8")
    assert run("check", clinic.folder / "site.yaml") == 2


def test_check_answers_scripts_in_json(
    clinic: ClinicSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", clinic.folder / "site.yaml", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "status", "text", "advice"} == set(found[0])


def test_a_patients_runs_are_found_without_the_identifier_in_the_answer(
    clinic: ClinicSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_cohort(clinic.database, "mortality-1", hash_patients([1007], SALT))
    monkeypatch.setattr("sys.stdin", io.StringIO("1007\n"))
    assert run("site", "patient", "--site", clinic.folder / "site.yaml") == 0
    shown = capsys.readouterr().out
    assert "mortality-1" in shown
    assert "1007" not in shown


def test_a_patient_who_was_never_used_is_told_so(
    clinic: ClinicSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_cohort(clinic.database, "mortality-1", hash_patients([1007], SALT))
    monkeypatch.setattr("sys.stdin", io.StringIO("1008\n"))
    assert run("site", "patient", "--site", clinic.folder / "site.yaml") == 0
    assert "no run has used" in capsys.readouterr().out


def test_the_models_that_came_are_listed(
    released: ClinicSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model", "list", "--site", released.folder / "site.yaml", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["round"]) == ("mortality", 2)


def test_a_pulled_model_predicts(
    released: ClinicSite, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, out = tmp_path / "m.safetensors", tmp_path / "out"
    assert run("model", "pull", "mortality", "--site", released.folder / "site.yaml",
               "--out", file) == 0  # fmt: skip
    assert "head.weight" in load_file(file)
    table = released.folder / "clinic.csv"
    assert run("predict", "--model", file, "--input", table, "--out", out) == 0
    assert "40 rows" in capsys.readouterr().out
    assert len(pd.read_csv(out / "predictions.csv")) == 40


def test_an_exported_bundle_predicts_as_the_file_does(released: ClinicSite, tmp_path: Path) -> None:
    where = released.folder / "site.yaml"
    table = released.folder / "clinic.csv"
    assert run("model", "pull", "mortality", "--site", where, "--out",
               tmp_path / "m.safetensors") == 0  # fmt: skip
    assert run("model", "export", "mortality", "--site", where, "--out", tmp_path / "bundle") == 0
    for name in ("m.safetensors", "bundle"):
        trained_in = Origin.of_file(tmp_path / name).runs
        assert [one.privacy_mode for one in trained_in] == ["none"]
        assert trained_in[0].run_key.startswith("mortality-federated-")
        assert run("predict", "--model", tmp_path / name, "--input", table, "--out",
                   tmp_path / f"{name}-out") == 0  # fmt: skip
    tables = [
        pd.read_csv(tmp_path / f"{name}-out" / "predictions.csv")
        for name in ("m.safetensors", "bundle")
    ]
    np.testing.assert_array_equal(tables[0].to_numpy(), tables[1].to_numpy())


@pytest.mark.parametrize("name", ["missing.safetensors", "no-such-run"])
def test_a_model_that_is_not_there_is_a_complaint(clinic: ClinicSite, name: str) -> None:
    table = clinic.folder / "clinic.csv"
    assert run("predict", "--model", name, "--input", table, "--out", clinic.folder / "out") == 2


def test_looking_at_models_makes_no_database(clinic: ClinicSite) -> None:
    assert run("model", "list", "--site", clinic.folder / "site.yaml") == 2
    assert not clinic.database.exists()
