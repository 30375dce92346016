"""What a hospital keeps of its scans between runs, finds for a patient and throws away."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedward.client.cohort import hash_patients, read_salt, record_cohort
from fedward.client.data.source import site_source
from fedward.client.retention import tidy_scans
from fedward.common.config.site import load_site_config
from fedward.deploy.cli import main
from tests.deploy.ct_hospitals import Made, checked, copy_of, hospitals, name_of, shift

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Three hospitals that have not read a scan yet."""
    with hospitals(tmp_path_factory.mktemp("hospitals")) as found:
        yield found


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
