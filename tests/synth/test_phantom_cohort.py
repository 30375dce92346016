"""A cohort is made once, completely or not at all, and its patients depend on the seed alone."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fedward.common.config.image import PhantomConfig
from fedward.common.errors import ConfigError
from fedward.deploy.cli import main
from fedward.synth.phantom.case import VERSION, generator_hash
from fedward.synth.phantom.cohort import cohort_key, make_cohort, phantoms_of, read_cohort

CONFIG = PhantomConfig(patients={"north": 3, "south": 2}, size=32, seed=7)


def changed(**values: object) -> PhantomConfig:
    return PhantomConfig.model_validate({**CONFIG.model_dump(), **values})


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(CONFIG, tmp_path_factory.mktemp("cohorts") / "cohort")


def test_each_site_has_a_table_and_a_folder_per_patient(cohort: Path) -> None:
    for site, num_patients in CONFIG.patients.items():
        table = (cohort / site / "patients.csv").read_text(encoding="utf-8").splitlines()
        names = sorted(path.name for path in (cohort / site).iterdir() if path.is_dir())
        assert [line.split(",")[0] for line in table] == ["patient", *names]
        assert len(names) == num_patients
        assert all(any((cohort / site / name / "CT").iterdir()) for name in names)


def test_the_description_has_generator_settings_and_every_patients_truth(cohort: Path) -> None:
    found = read_cohort(cohort)
    assert found["generator"] == {"version": VERSION, "hash": generator_hash()}
    assert PhantomConfig.model_validate_json(json.dumps(found["config"])) == CONFIG
    assert found["counts"]["patients"] == len(found["patients"]) == 5
    assert found["sites"]["north"]["scanner"] != found["sites"]["south"]["scanner"]
    table = (cohort / "south" / "patients.csv").read_text(encoding="utf-8").splitlines()
    for line in table[1:]:
        name, *_, label = line.split(",")
        truth = found["patients"][name]
        assert (truth["site"], truth["label"]) == ("south", int(label))
        assert truth["lesions"][0]["diameter_mm"] > 0


def test_the_same_settings_make_the_same_files(cohort: Path, tmp_path: Path) -> None:
    assert digest(make_cohort(CONFIG, tmp_path / "again")) == digest(cohort)


def test_a_cohort_that_is_there_is_not_made_again(cohort: Path) -> None:
    told: list[int] = []
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*")}
    assert make_cohort(CONFIG, cohort, progress=lambda done, total: told.append(done)) == cohort
    assert {path: path.stat().st_mtime_ns for path in cohort.rglob("*")} == before
    assert told == []


@pytest.mark.parametrize("values", [{"seed": 8}, {"missing": 0.2}, {"patients": {"north": 3}}])
def test_a_cohort_of_other_settings_is_refused_not_replaced(
    cohort: Path, values: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        make_cohort(changed(**values), cohort)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ConfigError, match="new or empty"):
        make_cohort(CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_cohort_that_lost_a_patient_is_refused(tmp_path: Path) -> None:
    config = changed(patients={"north": 1}, files="nifti")
    folder = make_cohort(config, tmp_path / "cohort")
    (folder / "north" / "north-00001").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="north were removed"):
        make_cohort(config, folder)


def test_an_interrupted_cohort_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_cohort(CONFIG, tmp_path / "cohort", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_patient_once(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = changed(files="nifti")
    make_cohort(config, tmp_path / "cohort", progress=lambda *step: told.append(step))
    assert told == [(done, 5) for done in range(6)]


def test_a_site_with_more_patients_begins_with_the_same_ones() -> None:
    few = list(phantoms_of(CONFIG, "south"))
    many = list(phantoms_of(changed(patients={"north": 1, "south": 4}), "south", most=2))
    assert [name for name, _ in few] == [name for name, _ in many]
    for (_, one), (_, other) in zip(few, many, strict=True):
        np.testing.assert_array_equal(one.voxels_DHW, other.voxels_DHW)
        assert one.clinical == other.clinical


def test_settings_that_change_a_file_change_the_key() -> None:
    others = [
        CONFIG,
        changed(seed=8),
        changed(kind="nodules"),
        changed(labels_from="none"),
        changed(size=33),
        changed(missing=0.2),
        changed(files="nifti"),
        changed(patients={"south": 2, "north": 3}),  # the order decides on the scanner
    ]
    assert len({cohort_key(config) for config in others}) == len(others)


def test_the_command_makes_a_cohort_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "cohort", tmp_path / "first.png"
    options = ["--site", "north=2", "--site", "south=1", "--size", "32", "--preview", str(picture)]
    assert main(["synth", "phantom", "--out", str(out), *options, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == str(out)
    assert shown["sites"]["north"]["patients"] == 2
    assert shown["config"] == read_cohort(out)["config"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["synth", "phantom", "--out", str(out), *options]) == 0
    assert f"cohort {shown['key']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--site", "north"], "expected NAME=PATIENTS"),
        (["--site", "north=2", "--site", "north=3"], "given twice"),
        (["--site", "north=0"], "patients.north"),
        (["--site", "no/rth=2"], "patients"),
        (["--missing", "1.5"], "missing"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["synth", "phantom", "--out", str(tmp_path / "cohort"), *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
