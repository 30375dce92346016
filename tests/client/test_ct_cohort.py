"""A folder of scans and a clinical table become the rows of a site."""

import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.data.ct_source import CtSource
from fedward.client.data.quarantine import read_quarantine
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.split import held_out_rows
from fedward.common.tables.table import Table
from fedward.common.task import Split
from tests.client.ct_folder import (
    MASKS_ONLY,
    STONES,
    mask,
    scan,
    write_nifti,
    write_patient,
    write_table,
)

SIZE = (16, 16, 16)
LESION = ImageConfig(size=SIZE, window=(-400, 2000), min_lesion_voxels=2)


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Return a folder: `ann` and `bob` in both, `cat` in the table only, `dan` a scan only."""
    folder = tmp_path / "scans"
    for number, patient in enumerate(("ann", "bob", "dan")):
        write_patient(folder, patient, offset=number)
    write_table(folder, ["bob", "cat", "ann"])
    return folder


def source(
    folder: Path,
    *,
    schema: TableSchema = STONES,
    image: ImageConfig = LESION,
    excluded: tuple[Any, ...] = (),
) -> CtSource:
    cache = folder.parent / "cache"
    return CtSource("west", folder, schema, image, cache=cache, excluded=excluded)


def quarantine(folder: Path) -> dict[str, str]:
    return dict(read_quarantine(folder.parent / "cache" / "quarantine.csv"))


def flags(table: Table, name: str) -> list[bool]:
    flag: list[bool] = table.arrays[f"has.{name}"].tolist()
    return flag


def test_scans_and_table_are_joined_and_flags_say_what_a_row_has(clinic: Path) -> None:
    read = source(clinic)
    table = read.read()

    # Two stones each of ann (0), bob (1) and dan (3); cat (2) has no scan.
    assert table.patient_id.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert read.patient_ids() == ["ann", "bob", "cat", "dan"]
    assert flags(table, "image") == [True, True, True, True, False, True, True]
    assert flags(table, "mask") == flags(table, "image")
    assert flags(table, "table") == [True] * 5 + [False] * 2
    assert flags(table, "label") == flags(table, "table")
    assert table.label.tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert table.columns["age"][:5].tolist() == [40, 40, 30, 30, 35]
    assert np.isnan(table.columns["age"][5:]).all()
    assert table.subgroups["women"].tolist() == [False] * 4 + [True] + [False] * 2
    assert not table.arrays["image"][4].any()


def test_each_stone_is_in_the_middle_of_its_row_the_largest_first(clinic: Path) -> None:
    arrays = source(clinic).read().arrays
    image, label = arrays["image"], arrays["mask"]

    assert image.shape == (7, *SIZE)
    assert image.dtype == np.int16
    assert label[:2].reshape(2, -1).sum(axis=1).tolist() == [216, 8]
    assert np.array_equal(image[0] == 700, label[0] == 1)
    assert label[0][5:11, 5:11, 5:11].all()
    # The small stone is near an edge of the scan: air stands where there is nothing.
    assert (image[1][:2] == -1000).all()
    assert image[1].min() == -1000
    assert arrays["spacing_mm"][0].tolist() == [1, 1, 1]


def test_a_scan_without_a_mask_gives_one_row_from_its_middle(tmp_path: Path) -> None:
    write_patient(tmp_path / "scans", "ann", masked=False)
    write_patient(tmp_path / "scans", "bob", masked=False)
    write_table(tmp_path / "scans", ["ann", "bob"])
    table = source(tmp_path / "scans").read()

    assert flags(table, "mask") == [False, False]
    assert np.array_equal(table.arrays["image"][0], scan()[12:28, 12:28, 14:30])
    assert not table.arrays["mask"].any()


def test_resampling_keeps_place_and_size_of_a_stone_in_millimetres(tmp_path: Path) -> None:
    for patient in ("ann", "bob"):
        write_nifti(tmp_path / "scans" / patient / "ct.nii.gz", scan(), spacing_mm=2.0)
        write_nifti(tmp_path / "scans" / patient / "ct_mask.nii.gz", mask(), spacing_mm=2.0)
    write_table(tmp_path / "scans", ["ann", "bob"])
    finer = LESION.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0), "min_lesion_voxels": 50})
    table = source(tmp_path / "scans", image=finer).read()

    assert len(table) == 4
    # By hand: of a corner's voxel, 0.75 ** 3 < 1/2 is stone.
    assert table.arrays["mask"][0].sum() == 12**3 - 8
    assert table.arrays["mask"][1].sum() == 4**3 - 8
    assert table.arrays["spacing_mm"][0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("image", "rows"),
    [
        (ImageConfig(size=(40, 44), rows="slice", window=(0, 1)), 6 + 2 + 1),
        (ImageConfig(size=(40, 44), rows="slice", window=(0, 1), max_rows_per_patient=4), 4),
        (ImageConfig(size=(48, 48, 48), rows="volume", window=(0, 1)), 1),
        (LESION.model_copy(update={"max_rows_per_patient": 1}), 1),
        (LESION.model_copy(update={"min_lesion_voxels": 1}), 3),
    ],
)
def test_what_a_row_is_and_how_many_there_are_is_the_runs_choice(
    clinic: Path, image: ImageConfig, rows: int
) -> None:
    table = source(clinic, image=image).read()
    assert (table.patient_id == 0).sum() == rows
    assert table.arrays["image"].shape[1:] == image.size
    assert table.arrays["mask"][0].any()


def test_a_second_start_reads_no_scan(clinic: Path) -> None:
    first = source(clinic).read()
    seen: list[int] = []
    again = CtSource(
        "west", clinic, STONES, LESION, cache=clinic.parent / "cache",
        progress=lambda done, total: seen.append(done),
    ).read()  # fmt: skip

    assert seen == []
    assert all(np.array_equal(first.arrays[k], again.arrays[k]) for k in ("image", "mask"))


def test_a_scan_that_changed_is_read_anew(clinic: Path) -> None:
    source(clinic).read()
    write_nifti(clinic / "ann" / "ct.nii.gz", scan(99))
    assert source(clinic).read().arrays["image"][0].max() == 799


def test_a_damaged_cache_is_no_answer(clinic: Path) -> None:
    first = source(clinic).read()
    for path in (clinic.parent / "cache").iterdir():
        if path.suffix in (".npz", ".json"):
            path.write_bytes(path.read_bytes()[:50])
    again = source(clinic).read()
    assert np.array_equal(first.arrays["image"], again.arrays["image"])


def test_the_cache_is_private_and_its_names_tell_nothing(clinic: Path) -> None:
    source(clinic).read()
    cache = clinic.parent / "cache"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    files = list(cache.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert not any(name in path.name for path in files for name in ("ann", "bob", "dan"))


def test_an_excluded_patient_leaves_rows_list_and_cache(clinic: Path) -> None:
    source(clinic).read()
    cache = clinic.parent / "cache"
    before = len(list(cache.glob("*.npz")))
    read = source(clinic, excluded=("ann", "cat"))

    assert read.patient_ids() == ["bob", "dan"]
    assert len(list(cache.glob("*.npz"))) == before - 1
    assert not any(b'"ann"' in path.read_bytes() for path in cache.glob("*.json"))


def test_a_patient_whom_the_schema_drops_is_dropped_with_the_scan(clinic: Path) -> None:
    frame = write_table(clinic, ["bob", "cat", "ann"])
    frame.loc[0, "age"] = 0
    frame.to_csv(clinic / "patients.csv", index=False)
    assert source(clinic).patient_ids() == ["ann", "cat", "dan"]


def test_numbers_are_the_same_patient_however_they_are_spelled(tmp_path: Path) -> None:
    for patient in ("007", "012"):
        write_patient(tmp_path / "scans", patient)
    write_table(tmp_path / "scans", ["12", "7"])
    table = source(tmp_path / "scans").read()
    assert flags(table, "table") == [True] * 4
    assert len(set(table.patient_id.tolist())) == 2


def test_all_scans_of_a_patient_are_in_one_part_of_a_split(clinic: Path) -> None:
    write_nifti(clinic / "ann" / "later.nii.gz", scan(5))
    write_nifti(clinic / "ann" / "later_mask.nii.gz", mask())
    table = source(clinic).read()
    assert (table.patient_id == 0).sum() == 4
    for fold in range(3):
        split = Split(seed=1, fold=fold, num_folds=3)
        held_out = held_out_rows(table, split, site="west")
        for patient in range(4):
            assert len(set(held_out[table.patient_id == patient].tolist())) == 1


@pytest.mark.parametrize(
    ("name", "voxels", "labels", "reason"),
    [
        ("elsewhere", scan(), mask(), "."),
        ("all background", scan(), 0 * mask(), "background"),
        ("other labels", scan(), 3 * mask() - mask() * (scan() == 500), "values besides 0"),
        ("off by 1024", (scan() + 1024).astype(np.int16), mask(), "1024"),
        ("one value", 0 * scan(), mask(), "same value"),
        ("no lesion", scan(), mask() * (scan() < 0), "no stone of at least 2 voxels"),
    ],
)
def test_a_case_that_cannot_be_used_is_on_the_list_and_ends_nothing(
    clinic: Path, name: str, voxels: Any, labels: Any, reason: str
) -> None:
    if name == "no lesion":
        labels = 0 * mask()
        labels[3, 20, 20] = 1
    write_nifti(clinic / "eve" / "ct.nii.gz", voxels)
    shift_mm = 1000.0 if name == "elsewhere" else 0.0
    write_nifti(clinic / "eve" / "ct_mask.nii.gz", labels, shift_mm=shift_mm)
    table = source(clinic).read()

    assert len(table) == 7
    listed = quarantine(clinic)
    assert set(listed) & {"eve/ct.nii.gz", "eve/ct_mask.nii.gz"}
    assert any(re.search(reason, why) for why in listed.values())


def test_a_truncated_file_is_on_the_list(clinic: Path) -> None:
    path = clinic / "dan" / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert source(clinic).patient_ids() == ["ann", "bob", "cat"]
    assert "dan/ct.nii.gz" in quarantine(clinic)
    assert stat.S_IMODE((clinic.parent / "cache" / "quarantine.csv").stat().st_mode) == 0o600


def test_a_patient_whose_scan_cannot_be_used_stays_with_the_table(clinic: Path) -> None:
    write_nifti(clinic / "ann" / "ct_mask.nii.gz", 0 * mask())
    table = source(clinic).read()
    assert table.patient_id.tolist() == [0, 1, 1, 2, 3, 3]
    assert flags(table, "image")[0] is False
    assert flags(table, "table")[0] is True


def test_a_scan_without_table_and_mask_teaches_nothing(clinic: Path) -> None:
    write_patient(clinic, "eve", masked=False)
    assert source(clinic).patient_ids() == ["ann", "bob", "cat", "dan"]
    assert "nothing to learn" in quarantine(clinic)["eve/ct.nii.gz"]


def test_where_no_scan_can_be_used_the_site_does_not_go_on_with_its_table(clinic: Path) -> None:
    for patient in ("ann", "bob", "dan"):
        write_nifti(clinic / patient / "ct_mask.nii.gz", 0 * mask())
    with pytest.raises(SiteDataError, match=r"no scan can be used: .*background; why each: .*.csv"):
        source(clinic).read()


def test_a_table_of_other_patients_is_refused(clinic: Path) -> None:
    write_table(clinic, ["x1", "x2", "x3"])
    with pytest.raises(SiteDataError, match="none of the patients of the scans"):
        source(clinic).read()


def test_two_rows_of_one_patient_are_refused(clinic: Path) -> None:
    write_table(clinic, ["ann", "bob", "ann"])
    with pytest.raises(SiteDataError, match="1 rows are of a patient who has one already"):
        source(clinic).read()


def test_a_missing_table_is_named_and_a_header_alone_is_a_table(clinic: Path) -> None:
    (clinic / "patients.csv").unlink()
    with pytest.raises(SiteDataError, match=r"patients.csv: there is no such file"):
        source(clinic).read()
    (clinic / "patients.csv").write_text("patient,age,sex,infection\n", encoding="utf-8")
    table = source(clinic).read()
    assert flags(table, "table") == [False] * 6
    assert table.columns["age"].shape == (6,)


def test_a_wrong_unit_in_the_table_is_refused_as_in_any_table(clinic: Path) -> None:
    frame = write_table(clinic, ["ann", "bob", "cat"])
    frame.assign(age=frame["age"] * 365).to_csv(clinic / "patients.csv", index=False)
    with pytest.raises(SiteDataError, match="another unit"):
        source(clinic).read()


def test_scans_alone_train_where_the_schema_has_masks_only(clinic: Path) -> None:
    read = source(clinic, schema=MASKS_ONLY)
    table = read.read()
    assert table.columns == {}
    assert read.patient_ids() == ["ann", "bob", "dan"]
    assert flags(table, "label") == flags(table, "table") == [False] * 6
    assert flags(table, "mask") == [True] * 6


def test_a_table_alone_trains_where_there_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    write_table(tmp_path / "scans", ["ann", "bob"])
    table = source(tmp_path / "scans").read()
    assert flags(table, "image") == [False, False]
    assert flags(table, "table") == [True, True]


def test_too_few_patients_are_refused_with_a_way_to_find_out_why(clinic: Path) -> None:
    write_nifti(clinic / "ann" / "ct_mask.nii.gz", 0 * mask())
    schema = STONES.model_copy(update={"min_cohort": 9})
    with pytest.raises(SiteDataError, match=r"minimum cohort of 9.*quarantine.csv"):
        source(clinic, schema=schema).read()
    empty = clinic.parent / "empty"
    empty.mkdir()
    with pytest.raises(NoPatientsError):
        source(empty, schema=MASKS_ONLY).read()


def test_a_cache_among_the_scans_is_refused(clinic: Path) -> None:
    read = CtSource("west", clinic, STONES, LESION, cache=clinic / "cache")
    with pytest.raises(ConfigError, match="among the scans"):
        read.read()


def test_rows_that_no_memory_holds_are_refused(clinic: Path) -> None:
    huge = LESION.model_copy(update={"size": (10_000, 10_000, 10_000)})
    with pytest.raises(ConfigError, match=r"data.image.size"):
        source(clinic, image=huge).read()
