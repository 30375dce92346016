"""The commands, their errors and exit codes, as a person meets them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedward.deploy import cli
from fedward.simulations.cli import shipped_configs

FAST = [
    "--engine",
    "inprocess",
    "--set",
    "rounds=2",
    "--set",
    "baselines=[]",
    "--set",
    "repeat=null",
]
SCHEMA = """\
version: 1
name: clinic
label: {column: sick}
fields:
  - {name: age, kind: continuous, unit: years, range: [0, 120]}
  - {name: creatinine, kind: continuous, unit: umol/L, range: [5, 3000]}
min_cohort: 10
"""
RUN = """\
version: 1
name: clinic
seed: 1
task: ehr-classification
data:
  root: .
  schema: clinic-schema.yaml
  sites:
    north: {file: north.csv}
    south: {file: south.csv}
model: {name: logistic-regression}
strategy: {name: fedavg}
rounds: 2
local: {epochs: 1, batch_size: 8, learning_rate: 0.1}
engine: {name: inprocess}
"""


def rows(number: int = 40, *, one_class: bool = False) -> pd.DataFrame:
    age = [30 + 7 * index % 50 for index in range(number)]
    sick = [0 if one_class else index % 2 for index in range(number)]
    creatinine = [70.0 + 40 * label + index % 5 for index, label in enumerate(sick)]
    return pd.DataFrame({"age": age, "creatinine": creatinine, "sick": sick})


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    (tmp_path / "clinic-schema.yaml").write_text(SCHEMA)
    (tmp_path / "run.yaml").write_text(RUN)
    for site in ("north", "south"):
        rows().to_csv(tmp_path / f"{site}.csv", index=False)
    return tmp_path


def simulate(folder: Path, *more: str) -> int:
    return cli.main(["simulate", str(folder / "run.yaml"), "--out", str(folder / "runs"), *more])


def test_a_run_on_ones_own_tables_works(clinic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(clinic) == 0
    shown = capsys.readouterr().out
    assert "north" in shown
    assert "report.html" in shown


def test_json_prints_the_summary_and_nothing_else(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(clinic, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["sites"]) == {"north", "south"}


def test_a_site_with_one_class_trains_and_its_undefined_figures_say_why(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(one_class=True).to_csv(clinic / "south.csv", index=False)
    assert simulate(clinic, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    auroc = summary["sites"]["south"]["metrics"]["auroc"]
    assert auroc["value"] is None
    assert auroc["reason"] == "one class"
    assert summary["global"]["metrics"]["auroc"]["value"] is not None, "the other site's"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop(columns="creatinine"), "has no column 'creatinine'"),
        (lambda t: t.rename(columns={"creatinine": "creatinin"}), "did you mean 'creatinin'"),
        (lambda t: t.assign(shoe_size=42), "shoe_size"),
        (lambda t: t.assign(creatinine=t.creatinine / 88.4), "5 to 3000 umol/L"),
        (lambda t: t.assign(age="forty-seven"), "40 cells are not numbers"),
        (lambda t: t.head(0), "no usable row"),
        (lambda t: t.head(5), "minimum cohort of 10"),
    ],
)
def test_a_spoiled_table_ends_with_exit_code_3_and_names_file_column_and_rule(
    clinic: Path, capsys: pytest.CaptureFixture[str], spoil: object, says: str
) -> None:
    assert callable(spoil)
    spoil(rows()).to_csv(clinic / "south.csv", index=False)
    assert simulate(clinic) == 3
    error = capsys.readouterr().err
    assert "south.csv" in error
    assert says in error
    assert "forty-seven" not in error, "no patient's value is ever shown"
    assert "Traceback" not in error


def test_a_typo_in_the_configuration_names_file_line_key_and_the_nearest(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RUN.replace("batch_size: 8", "batch_sise: 8")
    (clinic / "run.yaml").write_text(text)
    assert simulate(clinic) == 2
    error = capsys.readouterr().err
    assert "run.yaml:14: local." in error
    assert "batch_sise" in error
    assert "batch_size" in error


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("strategy.name=fedavgg", "did you mean 'fedavg'"),
        ("strategy.proximal_mu=1", "fedavg has no such key"),
        ("model.name=mpl", "did you mean 'mlp'"),
        ("model.hiden=[3]", "hiden"),
        ("task=ehr-clasification", "did you mean 'ehr-classification'"),
        ("data.schema=breast-cancr", "did you mean 'breast-cancer'"),
        ("data.root=heart-diseas", "did you mean 'heart-disease'"),
        ("shared=[boddy.*]", "matches no tensor"),
        ("sampling.deadline_s=5", "inprocess"),
        ("local.learning_rate=fast", "learning_rate"),
        ("strategy.name=scaffold --set local.optimizer=adam", "sgd without momentum"),
        ("strategy.name=scaffold --set local.momentum=0.9", "sgd without momentum"),
    ],
)
def test_a_wrong_value_is_a_configuration_error_that_helps(
    clinic: Path, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    overrides = override.split(" --set ")
    assert simulate(clinic, *(part for one in overrides for part in ("--set", one))) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith(f"fedward: --set {overrides[-1]}"), "the place comes first"
    assert "Traceback" not in error


def test_a_wrong_value_in_the_file_is_pointed_to_by_line(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clinic / "run.yaml").write_text(RUN.replace("{name: fedavg}", "{name: fedprox, mu: 1}"))
    assert simulate(clinic) == 2
    assert "run.yaml:12: strategy.mu: fedprox has no such key" in capsys.readouterr().err


def test_a_missing_data_root_names_the_command_that_fetches_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(tmp_path))
    assert cli.main(["simulate", "heart_disease", *FAST, "--out", str(tmp_path)]) == 2
    assert "fedward data fetch heart-disease" in capsys.readouterr().err


def test_a_run_whose_sites_all_fail_ends_with_exit_code_5(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Weights become infinite within a step, and the sites refuse to send them.
    diverging = ["--set", "model.name=mlp", "--set", "local.learning_rate=1e38"]
    assert simulate(clinic, *diverging) == 5
    error = capsys.readouterr().err
    assert "min_replies" in error
    assert "learning_rate" in error


def test_a_table_that_is_gone_when_the_run_is_resumed_is_named(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(clinic) == 0
    (clinic / "south.csv").unlink()
    arguments = ["simulate", "--resume", "latest", "--out", str(clinic / "runs")]
    assert cli.main([*arguments, "--set", "rounds=3"]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_report_is_rebuilt_from_the_folder(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(clinic) == 0
    page = clinic / "runs" / "latest" / "report.html"
    page.unlink()
    assert cli.main(["report", "latest", "--out", str(clinic / "runs")]) == 0
    assert page.exists()
    assert str(page.resolve()) in capsys.readouterr().out


def test_an_unknown_run_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "nothing", "--out", str(tmp_path)]) == 2
    assert "no run at 'nothing'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_clear_error(
    clinic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clinic / "runs").write_text("a file is in the way")
    assert simulate(clinic) == 2
    assert "--out" in capsys.readouterr().err


def test_simulations_run_py_is_the_same_program(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "simulations" / "run.py"
    texts = [
        subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
        for start in ([sys.executable, str(script)], [shutil.which("fedward") or "", "simulate"])
        if start[0]
    ]
    assert len(set(texts)) == 1
    assert "examples:" in texts[0]


def test_every_shipped_configuration_is_offered() -> None:
    assert set(shipped_configs()) >= {"quickstart", "heart_disease", "sepsis", "many_sites"}


def test_a_bug_is_called_one(
    clinic: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **keys: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fedward.simulations.simulate.simulate", broken)
    assert simulate(clinic) == 70
    assert "this is a bug" in capsys.readouterr().err
