"""`fedward privacy status` as a person types it."""

import argparse
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Budget, Planned
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.common.errors import ConfigError, StorageError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.deploy.commands import privacy

DELTA = 1e-5
STEPS = Segment(3.0, 0.05, 30)
SITE_YAML = """\
version: 1
site: bern
data:
  path: cohort.csv
  schema: heart_disease
min_cohort: 5
limits:
  epochs: 5
"""
SALT = bytes(32)


def fedward(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    privacy.add(parser.add_subparsers())
    args = parser.parse_args([str(part) for part in argv])
    return int(args.command(args))


def status(site: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = fedward("privacy", "status", "--site", site, "--json")
    return code, json.loads(capsys.readouterr().out)


def write_site(folder: Path, *, epsilon: float | None = 2.0) -> Path:
    path = folder / "site.yaml"
    limits = "" if epsilon is None else f"  epsilon: {epsilon}\n  delta: 0.00001\n"
    path.write_text(SITE_YAML + limits)
    return path


def train(folder: Path, *, study: str, rounds: int, first_patient: int = 0) -> None:
    database = folder / "site.sqlite"
    trail = AuditTrail(database)
    ledger = PrivacyLedger(database, site="bern", budget=Budget(), trail=trail)
    hashes = hash_patients(range(first_patient, first_patient + 100), SALT)
    data = DataSet.of("bern", hashes, SALT)
    for number in range(rounds):
        message = f"{study}-{number}"
        ledger.reserve(Planned(message, f"{study}-1", study, number, (STEPS,), DELTA), data)
        if number:
            ledger.release(message)
    ledger.close()
    trail.close()


def cost(rounds: int) -> float:
    return epsilon_of([STEPS] * rounds, DELTA)


def test_what_was_spent_and_what_is_left_over_all_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path)
    train(tmp_path, study="stroke", rounds=4)
    train(tmp_path, study="sepsis", rounds=2)
    code, told = status(site, capsys)
    assert code == 0
    (found,) = told["data_sets"]
    assert found["claim"]["epsilon"] == pytest.approx(cost(6))
    assert found["left"] == pytest.approx(2.0 - cost(6))
    assert cost(6 + found["rounds_left"]) <= 2.0 < cost(7 + found["rounds_left"])
    assert [(one["study"], one["num_rounds"], one["num_released"]) for one in found["studies"]] == [
        ("stroke", 4, 3), ("sepsis", 2, 1),
    ]  # fmt: skip
    assert [one["epsilon"] for one in found["studies"]] == pytest.approx([cost(4), cost(2)])
    assert 0 < found["closing"]["tight"] < found["closing"]["rdp"] == found["claim"]["epsilon"]
    assert found["num_patients"] == 100


def test_people_are_told_what_the_number_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path)
    train(tmp_path, study="stroke", rounds=2)
    assert fedward("privacy", "status", "--site", site) == 0
    out = capsys.readouterr().out
    for part in (
        f"epsilon {cost(2):.4g} of 2 at delta 1e-05",
        "rounds like the last",
        "noise multiplier 3 and sample rate 0.05",
        "stroke: 2 rounds, results of 1 left",
        "unit            patient",
        "one patient more",
        "Poisson",
        "not covered     figures of test patients",
    ):
        assert part in out


def test_other_patients_are_listed_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path)
    train(tmp_path, study="stroke", rounds=3)
    train(tmp_path, study="sepsis", rounds=1, first_patient=100)
    _, told = status(site, capsys)
    assert [one["claim"]["epsilon"] for one in told["data_sets"]] == pytest.approx(
        [cost(1), cost(3)]
    )


def test_a_spent_budget_is_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, study="stroke", rounds=3)
    code, told = status(write_site(tmp_path, epsilon=cost(3) * 1.01), capsys)
    assert code == 6
    assert told["data_sets"][0]["rounds_left"] == 0


def test_without_a_limit_it_is_said_that_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, study="stroke", rounds=1)
    site = write_site(tmp_path, epsilon=None)
    assert fedward("privacy", "status", "--site", site) == 0
    assert "no limit" in capsys.readouterr().out


def test_a_site_that_never_trained_privately_has_spent_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path)
    with pytest.raises(ConfigError, match="no such file yet"):
        fedward("privacy", "status", "--site", site)
    AuditTrail(tmp_path / "site.sqlite").append("let out")
    assert fedward("privacy", "status", "--site", site) == 0
    assert "nothing was spent" in capsys.readouterr().out
    assert list(tmp_path.glob("*.head")) == []


def test_a_damaged_ledger_is_no_status(tmp_path: Path) -> None:
    site = write_site(tmp_path)
    train(tmp_path, study="stroke", rounds=3)
    connection = sqlite3.connect(tmp_path / "site.sqlite")
    with connection:
        connection.execute("DROP TRIGGER privacy_no_delete")
        connection.execute("DELETE FROM privacy_ledger WHERE seq > 2")
    connection.close()
    with pytest.raises(StorageError, match="cut off"):
        fedward("privacy", "status", "--site", site)
