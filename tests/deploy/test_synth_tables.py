"""`fedward synth fit | sample | evaluate` as a user types them, on scikit-learn's table."""

import json
import stat
from pathlib import Path

import pandas as pd
import pytest

from fedward.deploy.cli import main
from fedward.simulations.builtin import builtin_frame

FEATURES = ["mean_radius", "mean_texture", "mean_smoothness", "mean_symmetry"]


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    builtin_frame("breast-cancer")[[*FEATURES, "malignant"]].to_csv(path, index=False)
    return path


@pytest.fixture
def model(patients: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cohort.synth"
    assert _fedward("fit", patients, "--label", "malignant", "--out", path) == 0
    return path


def test_a_table_is_learned_and_exactly_the_rows_that_were_asked_for_are_made(
    model: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    assert _fedward("sample", model, "--classes", "0=70,1=30", "--out", rows) == 0
    made = pd.read_csv(rows)
    assert made["malignant"].value_counts().to_dict() == {0: 70, 1: 30}
    assert list(made.columns) == [*FEATURES, "malignant"]
    assert stat.S_IMODE(model.stat().st_mode) == 0o600


def test_rows_meet_the_conditions(model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    assert _fedward("sample", model, "-n", 50, "--where", "mean_radius=10..14", "--out", rows) == 0
    made = pd.read_parquet(rows)
    assert len(made) == 50
    assert made["mean_radius"].between(10, 14).all()


def test_the_same_seed_makes_the_same_rows_and_is_not_written_beside_them(
    model: Path, tmp_path: Path
) -> None:
    seed = 987654321
    one, two, other = (tmp_path / f"{name}.csv" for name in ("one", "two", "other"))
    for path in (one, two):
        _fedward("sample", model, "-n", 40, "--seed", seed, "--out", path)
    _fedward("sample", model, "-n", 40, "--out", other)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert str(seed) not in one.with_name("one.csv.json").read_text()


def test_what_lies_beside_the_rows_says_how_they_were_made(model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    _fedward("sample", model, "-n", 40, "--out", rows)
    told = json.loads((tmp_path / "rows.csv.json").read_text())
    assert told["rows"] == 40
    assert told["method"] == "GaussianCopula"
    assert told["privacy"]["statement"].startswith("no guarantee")
    assert sum(one["returned"] for one in told["classes"].values()) == 40


def test_rows_are_never_replaced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("mine")
    assert _fedward("sample", model, "-n", 5, "--out", rows) == 2
    assert rows.read_text() == "mine"
    assert "there is one already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--where", "mean_radius"], "COLUMN=VALUE"),
        (["--where", "mean_radius=a..b"], "COLUMN=VALUE"),
        (["--where", "weight=3"], "weight"),
        (["--classes", "0=70,2=30"], "classes: 0, 1"),
        (["--classes", "0=-1"], "classes: 0, 1"),
        (["-n", "-5"], "a whole number from 0"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert _fedward("sample", model, *given, "--out", tmp_path / "rows.csv") == 2
    assert said in capsys.readouterr().err


def test_a_column_of_identifiers_is_refused_unless_it_is_allowed(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(patients)
    table, out = tmp_path / "named.csv", tmp_path / "m.synth"
    frame.assign(mrn=[f"P{number}" for number in range(len(frame))]).to_csv(table, index=False)
    learn = ("fit", table, "--label", "malignant", "--out", out)
    assert _fedward(*learn) == 3
    assert "'mrn'" in capsys.readouterr().err
    assert _fedward(*learn, "--drop", "mrn") == 0


def test_a_schema_is_written_and_can_be_used(patients: Path, tmp_path: Path) -> None:
    schema = tmp_path / "mine.yaml"
    assert _fedward("fit", patients, "--label", "malignant", "--write-schema", schema) == 0
    out = tmp_path / "m.synth"
    assert _fedward("fit", patients, "--schema", schema, "--out", out) == 0
    assert out.is_file()


def test_a_parameter_that_a_method_lacks_is_named(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--method", "kde-knn", "--set", "bandwith=scott", "--out", tmp_path / "m")
    assert _fedward("fit", patients, "--label", "malignant", *given) == 2
    assert "did you mean 'bandwidth'" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_evaluated_with_the_patients_that_were_held_out(
    model: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    _fedward("sample", model, "--out", rows)
    capsys.readouterr()
    asked = ("evaluate", rows, "--model", model, "--data", patients, "--draws", 1, "--json")
    assert _fedward(*asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"]["train"] + found["sizes"]["holdout"] == len(pd.read_csv(patients))
    assert isinstance(found["verdict"]["shareable"], bool)
    assert Path(found["report"]).read_text().startswith("<!doctype html>")


def test_another_table_than_the_one_that_was_learned_is_refused(
    model: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    _fedward("sample", model, "-n", 40, "--out", rows)
    pd.read_csv(patients).iloc[1:].to_csv(patients, index=False)
    assert _fedward("evaluate", rows, "--model", model, "--data", patients) == 2
    assert "is not the file that the model was fitted on" in capsys.readouterr().err


def test_rows_that_were_changed_after_they_were_made_are_refused(
    model: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    _fedward("sample", model, "-n", 40, "--out", rows)
    pd.read_csv(rows).iloc[1:].to_csv(rows, index=False)
    assert _fedward("evaluate", rows, "--model", model, "--data", patients) == 2
    assert "tells about other rows" in capsys.readouterr().err


def _fedward(verb: str, *arguments: object) -> int:
    return main(["synth", verb, *map(str, arguments)])
