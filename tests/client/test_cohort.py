"""Which runs used a patient: answered from keyed hashes, never from identifiers."""

import stat
from pathlib import Path

import pytest

from fedward.client.cohort import hash_patients, read_salt, record_cohort, runs_of
from fedward.client.data.source import site_source
from fedward.common.errors import ConfigError, SiteDataError
from tests.client.clinic import clinic_frame
from tests.client.clinic_site import SALT, make_site


def test_a_patient_is_found_in_the_runs_that_used_them_and_in_no_other(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    record_cohort(database, "heart-1", hash_patients([1, 2], SALT))
    record_cohort(database, "heart-2", hash_patients([2, 3], SALT))
    assert [one.run_key for one in runs_of(database, "2", SALT)] == ["heart-1", "heart-2"]
    assert [one.run_key for one in runs_of(database, "3", SALT)] == ["heart-2"]
    assert runs_of(database, "4", SALT) == []


@pytest.mark.parametrize("spelling", ["7", " 7", "7.0", "07", "7\n"])
def test_one_patient_is_found_however_the_number_is_spelled(tmp_path: Path, spelling: str) -> None:
    record_cohort(tmp_path / "site.sqlite", "heart", hash_patients([7], SALT))
    assert len(runs_of(tmp_path / "site.sqlite", spelling, SALT)) == 1


def test_to_ask_for_the_same_run_again_adds_nobody(tmp_path: Path) -> None:
    hashes = hash_patients(range(5), SALT)
    assert record_cohort(tmp_path / "site.sqlite", "heart", hashes) == 5
    assert record_cohort(tmp_path / "site.sqlite", "heart", hashes) == 0


def test_the_database_holds_no_identifier_and_is_private(tmp_path: Path) -> None:
    database = tmp_path / "site.sqlite"
    record_cohort(database, "heart", hash_patients(["Müller-19480131"], SALT))
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"19480131" not in content
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_without_the_sites_salt_nothing_is_found(tmp_path: Path) -> None:
    record_cohort(tmp_path / "site.sqlite", "heart", hash_patients([7], SALT))
    assert runs_of(tmp_path / "site.sqlite", "7", bytes(32)) == []


def test_no_identifier_is_a_complaint_and_not_an_answer(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match="no patient identifier"):
        runs_of(tmp_path / "site.sqlite", " \n", SALT)


def test_a_salt_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "id-salt"
    path.write_bytes(SALT)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_salt(path)


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_short_salt_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "id-salt"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="shorter than 32 bytes"):
        read_salt(path)


def test_a_source_names_its_usable_patients_only(tmp_path: Path) -> None:
    made = make_site(tmp_path)
    frame = clinic_frame(20)
    frame.loc[0, "hour_of_death"] = 3  # dropped by the schema
    made.rewrite(frame)
    (tmp_path / "withdrawn.txt").write_text("# withdrawn\n1001\n\n 1002.0 \n", encoding="utf-8")
    text = (tmp_path / "site.yaml").read_text(encoding="utf-8")
    text = text.replace("  schema:", "  exclude: withdrawn.txt\n  schema:")
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    source = site_source(made.site)
    assert sorted(source.patient_ids()) == list(range(1003, 1020))
    assert len(source.read()) == 17


def test_a_missing_exclusion_list_is_no_empty_one(tmp_path: Path) -> None:
    made = make_site(tmp_path)
    text = (tmp_path / "site.yaml").read_text(encoding="utf-8")
    text = text.replace("  schema:", "  exclude: withdrawn.txt\n  schema:")
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"site.yaml:5: data.exclude"):
        site_source(made.site)
