"""Pictures are made once, follow from the seed, and their labels from what was drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from fedward.client.data.array_source import ArraySource
from fedward.common.config.image import ImageConfig, PicturesConfig
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.common.tables.schema import load_schema
from fedward.deploy.cli import main
from fedward.simulations.cli import find_config
from fedward.synth.phantom.cohort import read_cohort
from fedward.synth.pictures import retina, skin
from fedward.synth.pictures.cohort import (
    generator_hash,
    make_pictures,
    patients_of,
    pictures_key,
    site_file,
)
from fedward.synth.pictures.drawing import Patient

SKIN = PicturesConfig(kind="skin", patients={"north": 3, "south": 2}, size=32, seed=7)
RETINA = PicturesConfig(kind="retina", patients={"north": 3, "south": 2}, size=32, seed=7)
BOTH = pytest.mark.parametrize("config", [SKIN, RETINA], ids=lambda config: config.kind)


def changed(config: PicturesConfig, **values: object) -> PicturesConfig:
    return PicturesConfig.model_validate({**config.model_dump(), **values})


def patients(config: PicturesConfig, site: str = "north") -> list[Patient]:
    return [patient for _, patient in patients_of(config, site)]


def auroc(features_NF: NDArray[np.float64], label_N: NDArray[np.int64]) -> float:
    """Return the macro AUROC, one class against the rest, of held-out fifths."""
    scaled_NF = (features_NF - features_NF.mean(axis=0)) / features_NF.std(axis=0)
    model = LogisticRegression()
    found = cross_val_predict(model, scaled_NF, label_N, cv=5, method="predict_proba")
    return float(roc_auc_score(label_N, found, multi_class="ovr", average="macro"))


@BOTH
def test_the_same_settings_make_the_same_files(config: PicturesConfig, tmp_path: Path) -> None:
    folders = [make_pictures(config, tmp_path / name) for name in ("one", "two")]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == ["cohort.json", "north.npz", "south.npz"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    other = make_pictures(changed(config, seed=8), tmp_path / "other")
    assert site_file(other, "north").read_bytes() != site_file(folders[0], "north").read_bytes()


@BOTH
def test_a_site_with_more_patients_begins_with_the_same_ones(config: PicturesConfig) -> None:
    many = changed(config, patients={"north": 5, "south": 4})
    for few, more in zip(patients(config, "south"), patients(many, "south")[:2], strict=True):
        np.testing.assert_array_equal(few.pictures_NYX, more.pictures_NYX)
        np.testing.assert_array_equal(few.masks_NYX, more.masks_NYX)


@BOTH
def test_a_patient_is_the_same_one_at_any_size(config: PicturesConfig) -> None:
    small, large = patients(config), patients(changed(config, size=128))
    for one, other in zip(small, large, strict=True):
        assert (one.labels, one.truth) == (other.labels, other.truth)
    # Half of a pixel of the smaller one more or less along each edge, of spots of about 16 pixels.
    if config.kind == "skin":
        for one, other in zip(small, large, strict=True):
            assert (one.masks_NYX == other.masks_NYX[:, 2::4, 2::4]).mean() > 0.95


def test_inside_its_outline_a_spot_is_darker_than_the_skin_round_it() -> None:
    darker = []
    for patient in patients(changed(SKIN, patients={"north": 30}, size=64)):
        inside_YX = patient.masks_NYX[0] == 1
        round_YX = ndimage.binary_dilation(inside_YX, iterations=8) & ~inside_YX
        assert 0.03 < inside_YX.mean() < 0.6
        picture_YX = patient.pictures_NYX[0].astype(float)
        darker.append(picture_YX[round_YX].mean() - picture_YX[inside_YX].mean())
    # A hair or a bright patch may hide one spot in ten.
    assert np.quantile(darker, 0.1) > 5


def test_fluid_is_darker_than_what_is_round_it_and_lies_where_its_kind_does() -> None:
    darker: list[float] = []
    depths: dict[str, list[float]] = {name: [] for name in retina.STRUCTURES}
    for patient in patients(changed(RETINA, patients={"north": 15}, size=128)):
        for picture_YX, mask_YX in zip(patient.pictures_NYX, patient.masks_NYX, strict=True):
            for value, name in enumerate(retina.STRUCTURES, start=1):
                inside_YX = mask_YX == value
                if inside_YX.sum() < 100:
                    continue
                round_YX = ndimage.binary_dilation(inside_YX, iterations=3) & (mask_YX == 0)
                darker.append(picture_YX[round_YX].mean() - picture_YX[inside_YX].mean())
                depths[name].append(np.nonzero(inside_YX)[0].mean())
    assert min(darker) > 20
    assert np.mean(depths["IRF"]) < np.mean(depths["SRF"]) < np.mean(depths["PED"])


def test_a_scan_is_wet_where_its_mask_has_fluid_and_every_patient_has_some() -> None:
    found = patients(changed(RETINA, patients={"north": 60}))
    for patient in found:
        assert patient.labels == tuple(int(mask.any()) for mask in patient.masks_NYX)
        assert 1 in patient.labels
    assert 0.35 < np.mean([patient.labels for patient in found]) < 0.75


def test_kinds_of_spots_are_as_frequent_as_in_isic_and_told_by_their_traits_alone() -> None:
    found = patients(changed(SKIN, patients={"north": 600}, size=16))
    label_N = np.array([patient.labels[0] for patient in found])
    counts = np.bincount(label_N, minlength=3)
    # One draw in a thousand is further off.
    assert stats.chisquare(counts, 600 * np.array(skin.SHARES)).pvalue > 1e-3
    traits = np.array([list(patient.truth["traits"].values()) for patient in found])
    # Overlapping: no classifier of the pictures can be perfect.
    assert 0.9 < auroc(traits, label_N) < 0.99
    plain = np.array([(patient.masks_NYX.mean(), patient.pictures_NYX.mean()) for patient in found])
    # Of chance, with 72 of the rarest class, the standard error is 0.035: three of them.
    assert abs(auroc(plain, label_N) - 0.5) < 0.105


def test_brightness_does_not_tell_wet_from_dry() -> None:
    found = patients(changed(RETINA, patients={"north": 100}, size=16))
    label_N = np.array([patient.labels for patient in found]).ravel()
    mean_N = np.array([picture.mean() for one in found for picture in one.pictures_NYX])
    # Of chance the standard error is 0.029 with 400 scans, 0.058 if a patient's were all alike.
    assert abs(roc_auc_score(label_N, mean_N) - 0.5) < 0.15


@BOTH
def test_sites_see_the_same_patient_with_sensors_of_their_own(config: PicturesConfig) -> None:
    first = patients(changed(config, patients={"a": 4}), "a")
    second = patients(changed(config, patients={"b": 1, "a": 4}), "a")
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.masks_NYX, other.masks_NYX)
        assert (one.pictures_NYX != other.pictures_NYX).mean() > 0.5


def test_there_are_as_many_sensors_as_sites() -> None:
    assert len({skin.camera_of(index) for index in range(12)}) == 12
    assert len({retina.tomograph_of(index) for index in range(12)}) == 12


@BOTH
def test_a_hospital_reads_the_file_by_the_shipped_schema(
    config: PicturesConfig, tmp_path: Path
) -> None:
    config = changed(config, patients={"north": 10})
    folder = make_pictures(config, tmp_path / "cohort")
    name = {"skin": "skin-pictures", "retina": "retina-scans"}[config.kind]
    schema, image = load_schema(name), ImageConfig(size=(32, 32), rows="slice", window=(0, 255))
    source = ArraySource("north", site_file(folder, "north"), schema, image=image)
    table = source.read()
    drawn = patients(config)
    np.testing.assert_array_equal(
        table.arrays["image"], np.concatenate([one.pictures_NYX for one in drawn])
    )
    np.testing.assert_array_equal(
        table.arrays["mask"], np.concatenate([one.masks_NYX for one in drawn])
    )
    assert list(table.label) == [label for one in drawn for label in one.labels]
    assert len(source.patient_ids()) == 10
    classes = skin.CLASSES if config.kind == "skin" else retina.CLASSES
    structures = skin.STRUCTURES if config.kind == "skin" else retina.STRUCTURES
    assert schema.label is not None
    assert schema.image is not None
    assert (schema.label.classes, schema.image.structures) == (classes, structures)


@BOTH
def test_a_cohort_is_made_once_and_never_replaced(config: PicturesConfig, tmp_path: Path) -> None:
    folder = make_pictures(config, tmp_path / "cohort")
    told: list[int] = []
    make_pictures(config, folder, progress=lambda done, total: told.append(done))
    assert told == []
    found = read_cohort(folder)
    assert (found["key"], found["generator"]["hash"]) == (pictures_key(config), generator_hash())
    assert len(found["patients"]) == 5
    with pytest.raises(ConfigError, match="other settings"):
        make_pictures(changed(config, seed=8), folder)
    site_file(folder, "south").unlink()
    with pytest.raises(ConfigError, match="south was removed"):
        make_pictures(config, folder)
    with pytest.raises(ConfigError, match="new or empty"):
        make_pictures(config, tmp_path)


def test_an_interrupted_cohort_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pictures(SKIN, tmp_path / "cohort", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.pictures.labels_from=ct", "data.pictures.labels_from: unknown key here"),
        ("data.pictures.files=nifti", "data.pictures.files: unknown key here"),
        ("data.pictures.missing=0.2", "data.pictures.missing: unknown key here"),
        ("data.pictures.kind=stones", "expected one of skin, retina"),
        ("data.pictures.size=8", "at least 16"),
        ("data.root=elsewhere", "data.pictures: it goes with `root: phantom`"),
        ("data.phantom={patients: {north: 9}, seed: 1}", "exactly one of"),
    ],
)
def test_keys_that_do_not_go_with_pictures_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_run_config(find_config("resformer_skin"), [override])
    assert said in str(refused.value)


@pytest.mark.parametrize("kind", ["skin", "retina"])
def test_the_command_makes_pictures_and_a_sheet_of_them(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "cohort", tmp_path / "first.png"
    options = ["--kind", kind, "--site", "north=2", "--size", "32", "--preview", str(sheet)]
    assert main(["synth", "phantom", "--out", str(out), *options, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sites"]["north"]["pictures"] == {"skin": 2, "retina": 8}[kind]
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(["synth", "phantom", "--out", str(out), *options]) == 0
    assert f"cohort {shown['key']}" in capsys.readouterr().out


def test_the_command_refuses_what_is_for_ct_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--kind", "skin", "--missing", "0.1", "--labels-from", "both"]
    assert main(["synth", "phantom", "--out", str(tmp_path / "cohort"), *options]) == 2
    assert "--labels-from, --missing: only for CT" in capsys.readouterr().err
