"""Predictions for scans: masks where the scan is, sizes that are true, and classes per patient.

Legend: D, H, W as in a volume.
"""

import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.sr.codedict import codes
from scipy import ndimage

from fedward.client.data.volumes import Volume, load_mask, load_volume, masks_of, scan_folder
from fedward.client.dicom_seg import concept_of
from fedward.client.measurements import lesions_in_mask, stones_in_kidneys
from fedward.common.config.image import PhantomConfig
from fedward.common.errors import ConfigError, SiteDataError, StorageError
from fedward.common.tables.schema import load_schema
from fedward.synth.phantom.cohort import make_cohort, read_cohort
from tests.client.dicom_files import write_series
from tests.client.scan_models import (
    ORIGIN_MM,
    SPACING_MM,
    threshold_model,
)
from tests.client.scan_predictions import (
    ABDOMEN,
    KIDNEY,
    PLACE,
    TOUCHING,
    facts_in,
    is_above,
    is_within_a_voxel,
    nifti_of,
    predicted,
)


def write_clinic(folder: Path, patients: dict[str, float]) -> None:
    frame = pd.DataFrame({"patient": list(patients), "age": list(patients.values())})
    frame = frame.assign(
        sex="F", blood_wbc=7.0, creatinine=80.0, urine_wbc=3.0, urine_ph=6.0, location="kidney"
    )
    frame.to_csv(folder / "patients.csv", index=False)


def test_a_higher_threshold_finds_less(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[:, :90, :96], PLACE)
    model = threshold_model("ct-abdomen", task="ct-kidney", **KIDNEY)
    found = predicted(model, tmp_path / "in", tmp_path / "out", stone_hu=1500.0)
    assert (found.num_lesions, found.num_segmentations) == (0, 1)
    with pytest.raises(ConfigError, match="only for models of the task ct-kidney"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / "other", stone_hu=150.0)


def test_each_stone_that_is_measured_is_in_the_mask() -> None:
    volume = Volume(ABDOMEN, SPACING_MM, ORIGIN_MM)
    kidneys_DHW = ndimage.binary_opening((ABDOMEN >= 35) & (ABDOMEN <= 110), TOUCHING)
    found = stones_in_kidneys(volume, kidneys_DHW, 130.0)
    _, num_parts = ndimage.label(found.mask_DHW, TOUCHING)
    assert len(found.lesions) == num_parts == 2
    assert all(found.mask_DHW[tuple(one.voxel(volume))] for one in found.lesions)
    nothing = stones_in_kidneys(volume, np.zeros(ABDOMEN.shape, dtype=bool), 130.0)
    assert not nothing.lesions
    assert not nothing.mask_DHW.any()


def test_what_is_no_stone_is_measured_as_its_mask_says() -> None:
    """A block of 4 x 6 x 8 mm: its longest diagonal, from face to face."""
    voxels_DHW = np.full((30, 60, 200), 40, dtype=np.int16)
    mask_DHW = np.zeros(voxels_DHW.shape, dtype=bool)
    mask_DHW[10:12, 20:26, 150:158] = True
    volume = Volume(voxels_DHW, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    (lesion,) = lesions_in_mask(volume, mask_DHW, "stone").lesions
    assert (lesion.method, lesion.side, lesion.mean_hu) == ("mask", "left", 40.0)
    assert lesion.volume_mm3 == 4 * 6 * 8
    assert lesion.centre_mm == (153.5, 22.5, 21.0)
    # Between the corners of the outermost voxels, less half a voxel along two axes.
    assert np.sqrt(2**2 + 5**2 + 7**2) < lesion.diameter_mm <= np.sqrt(4**2 + 6**2 + 8**2)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output for phantoms of two scanners, as DICOM with compressed pixels."""
    folder = tmp_path_factory.mktemp("phantoms")
    config = PhantomConfig(kind="stones", patients={"a": 2, "b": 2}, size=48, seed=3)
    make_cohort(config, folder / "in")
    (folder / "in" / "a" / "patients.csv").rename(folder / "in" / "patients.csv")
    (folder / "in" / "b" / "patients.csv").unlink()
    model = threshold_model(image={"spacing_mm": [1, 1, 1]}, classes=True)
    predicted(model, folder / "in", folder / "out")
    return folder


def test_stones_of_phantoms_are_measured_and_masked_on_the_grid_of_the_scan(
    phantoms: Path,
) -> None:
    truth = read_cohort(phantoms / "in")["patients"]
    scan = scan_folder(phantoms / "in")
    schema = load_schema("ct-stones").image
    assert schema is not None
    for series in facts_in(phantoms / "out")["series"]:
        (own,) = [one for one in scan.series if one.series_uid == series["series_uid"]]
        (lesion,) = truth[series["patient"]]["lesions"]
        measured = min(
            series["lesions"],
            key=lambda one: abs(one["diameter_mm"] - lesion["diameter_mm"]),
        )
        voxel_mm = max(series["spacing_mm"])
        assert measured["diameter_mm"] == pytest.approx(lesion["diameter_mm"], abs=voxel_mm)
        assert measured["volume_mm3"] == pytest.approx(lesion["volume_mm3"], rel=0.1)
        there = [measured[f"centre_{axis}_mm"] for axis in "xyz"]
        assert there == pytest.approx(lesion["centre_mm"], abs=voxel_mm)
        volume = load_volume(own)
        true_DHW = load_mask(masks_of(scan, own)[0], own, volume, schema) > 0
        image = nifti_of(phantoms / "out" / series["files"]["mask"])
        assert image.shape == volume.voxels_DHW.shape[::-1]
        found_DHW = np.asarray(image.dataobj).transpose(2, 1, 0) > 0
        parts_DHW, _ = ndimage.label(found_DHW, TOUCHING)
        mine = np.isin(parts_DHW, np.unique(parts_DHW[true_DHW & found_DHW]))
        assert is_within_a_voxel(mine, true_DHW)
        x, y, z = volume.origin_mm
        assert image.affine[:3, 3] == pytest.approx([-x, -y, z], abs=1e-3)


def test_left_and_right_are_not_guessed_from_a_region(phantoms: Path) -> None:
    for series in facts_in(phantoms / "out")["series"]:
        assert {lesion["side"] for lesion in series["lesions"]} == {None}


def test_a_patients_probability_is_the_mean_over_lesions(phantoms: Path) -> None:
    facts = facts_in(phantoms / "out")
    table = pd.read_csv(phantoms / "out" / "predictions.csv")
    lesions = pd.read_csv(phantoms / "out" / "measurements.csv")
    assert list(table.columns) == [
        "row", "patient", "series", "probability_non-infectious", "probability_infectious"
    ]  # fmt: skip
    # The first two are in the clinical table, the others are not.
    assert list(table["row"]) == [1, 2, 3, 4]
    assert [name[0] for name in table["patient"]] == ["a", "a", "b", "b"]
    assert [one["clinical_fields"] for one in facts["series"]] == [True, True, False, False]
    mean = lesions.groupby("patient")["probability_infectious"].mean()
    assert table["probability_infectious"].tolist() == pytest.approx(
        mean[table["patient"]].tolist()
    )
    assert facts["calibration"] == {
        "known": False,
        "note": "not known: calibrate at your site before a probability is read as a risk",
    }


def test_all_files_are_private(phantoms: Path) -> None:
    files = [path for path in (phantoms / "out").rglob("*") if path.is_file()]
    assert len(files) == 4 + 2 * 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_clinical_fields_count_and_are_missing_without_a_table(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        write_series(tmp_path / "in" / patient, ABDOMEN[30:44, 30:80, 20:80], PLACE,
                     patient=patient)  # fmt: skip
    model = threshold_model(classes=True, low=0.5)
    predicted(model, tmp_path / "in", tmp_path / "without")
    write_clinic(tmp_path / "in", {"p2": 90.0, "P3": 50.0})
    found = predicted(model, tmp_path / "in", tmp_path / "with")
    before, after = (
        pd.read_csv(tmp_path / name / "predictions.csv").set_index("patient")
        for name in ("without", "with")
    )
    names = ["probability_non-infectious", "probability_infectious"]
    one, same = (frame.loc["p1", names].to_numpy(dtype=np.float64) for frame in (before, after))
    assert np.array_equal(one, same)
    # By hand: 90 years stand (90 - 60) / 60 from the middle of the range.
    shares = [one.loc["p2", names].to_numpy(dtype=np.float64) for one in (before, after)]
    logits = [float(np.log(share[1] / share[0])) for share in shares]
    assert logits[1] - logits[0] == pytest.approx(0.5, abs=1e-5)
    assert dict(zip(after.index, after["row"], strict=True)) == {"p2": 1, "p1": 3}
    assert found.num_without == 0


def test_a_wrong_unit_in_the_table_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[30:40, 30:70, 20:70], PLACE)
    write_clinic(tmp_path / "in", {"p1": 900.0})
    with pytest.raises(SiteDataError, match="'age': 1 of 1 values are outside"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / "out")


def test_a_patient_with_two_rows_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[30:40, 30:70, 20:70], PLACE)
    write_clinic(tmp_path / "in", {"1": 50.0, "01": 51.0})
    with pytest.raises(SiteDataError, match="1 rows are of a patient who has one already"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / "out")


def test_one_bad_series_is_listed_and_the_others_are_predicted(tmp_path: Path) -> None:
    small = ABDOMEN[30:40, 30:70, 20:70]
    write_series(tmp_path / "in" / "p1", small, PLACE)
    write_series(tmp_path / "in" / "p2", small + 1024, PLACE, patient="p2")
    (tmp_path / "in" / "p1" / "notes.dcm").write_bytes(b"nothing")
    found = predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    assert (found.num_series, found.num_patients, found.num_quarantined) == (1, 1, 11)
    listed = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert listed["reason"].str.contains("1024").sum() == 10
    assert (tmp_path / "out" / "masks" / "0001.nii.gz").is_file()


def test_nothing_that_can_be_predicted_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[30:40, 30:70, 20:70] + 1024, PLACE)
    with pytest.raises(SiteDataError, match=r"why: .*quarantine\.csv") as caught:
        predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    assert caught.value.exit_code == 3
    assert len(pd.read_csv(tmp_path / "out" / "quarantine.csv")) == 10


@pytest.mark.parametrize("out", ["in/out", "in"])
def test_predictions_do_not_lie_among_the_scans(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="among the scans"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / out)


def test_masks_of_another_prediction_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[30:40, 30:70, 20:70], PLACE)
    predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    with pytest.raises(ConfigError, match="another prediction"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("clahe", [False, True])
def test_a_network_of_slices_sees_slice_by_slice(tmp_path: Path, clahe: bool) -> None:
    part = ABDOMEN[30:44, 30:90, 20:80]
    write_series(tmp_path / "in" / "p1", part, PLACE)
    image = {"size": [48, 64], "rows": "slice", "clahe": clahe}
    model = threshold_model(image=image, classes=True, low=0.85 if clahe else 0.3125)
    predicted(model, tmp_path / "in", tmp_path / "out")
    mask = nifti_of(tmp_path / "out" / "masks" / "0001.nii.gz")
    found_DHW = np.asarray(mask.dataobj).transpose(2, 1, 0) > 0
    if not clahe:
        assert is_above(found_DHW, part)
    (series,) = facts_in(tmp_path / "out")["series"]
    assert len(series["lesions"]) >= 1
    assert series["lesions"][0]["probability"] is None
    assert 0 < series["probability"]["infectious"] < 1
    assert found_DHW[:, :, 0].sum() < found_DHW.sum()


def test_a_network_without_masks_sees_the_middle_of_the_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[20:44, 30:90, 20:80], PLACE)
    model = threshold_model(masks=False, classes=True, low=0.3125, image={"size": [16, 16, 16]})
    found = predicted(model, tmp_path / "in", tmp_path / "out")
    assert (found.num_lesions, found.num_without) == (0, 0)
    assert not (tmp_path / "out" / "masks").exists()
    share = (ABDOMEN[24:40, 52:68, 42:58] >= 350).mean()
    (patient,) = facts_in(tmp_path / "out")["patients"]
    expected = 1 / (1 + np.exp(-10 * share))
    assert expected > 0.6
    assert patient["probability"]["infectious"] == pytest.approx(expected, abs=2e-3)


def test_a_patient_in_whom_nothing_is_found_has_no_probability(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[20:30, 30:60, 20:50], PLACE)
    model = threshold_model(classes=True, low=0.99)
    found = predicted(model, tmp_path / "in", tmp_path / "out")
    assert found.num_without == 1
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["probability_infectious"].isna().all()
    (series,) = facts_in(tmp_path / "out")["series"]
    assert series["notes"] == ["no DICOM Segmentation: nothing was found"]


def test_small_specks_are_no_lesions_where_training_left_them_out(tmp_path: Path) -> None:
    part = ABDOMEN[20:44, 30:90, 20:80].copy()
    part[2, 3, 4] = 1200
    write_series(tmp_path / "in" / "p1", part, PLACE)
    counts = [
        predicted(
            threshold_model(image={"spacing_mm": [1.5, 0.8, 0.8], "min_lesion_voxels": least}),
            tmp_path / "in",
            tmp_path / f"out{least}",
        ).num_lesions
        for least in (1, 3)
    ]
    assert counts[0] == counts[1] + 1


def test_a_structure_of_no_known_concept_is_coded_as_what_can_be_said_of_it() -> None:
    assert concept_of("liver", is_lesion=False)[1] == codes.SCT.Tissue
    assert concept_of("metastasis", is_lesion=True)[1] == codes.SCT.Lesion
    assert concept_of("Tumour", is_lesion=True)[1] == codes.SCT.Neoplasm
    assert concept_of("nodule", is_lesion=True)[1] == codes.SCT.Nodule


def test_an_output_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "p1", ABDOMEN[:4, :90, :96], PLACE)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="out: cannot be made"):
        predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
