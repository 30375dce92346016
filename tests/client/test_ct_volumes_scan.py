"""Which files make a series, what is repaired, and what is left out with which reason."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from fedward.client.data.volumes import Scan, load_volume, scan_folder
from fedward.common.errors import SiteDataError
from tests.client.dicom_files import body, only, write_series

BODY = body()


def reasons(scan: Scan) -> list[str]:
    return [entry.reason for entry in scan.quarantined]


def test_a_missing_slice_is_interpolated_and_more_are_refused(tmp_path: Path) -> None:
    for place, gone in (("one", [5]), ("many", [3, 4, 5, 7])):
        for path in np.array(write_series(tmp_path / place, BODY, patient=place))[gone]:
            path.unlink()

    scan = scan_folder(tmp_path)

    series = only(scan)
    assert series.patient == "one"
    assert series.notes == ("1 missing slice interpolated",)
    volume = load_volume(series)
    assert np.array_equal(volume.voxels_DHW[[4, 6]], BODY[[4, 6]])
    between = (BODY[4].astype(float) + BODY[6]) / 2
    assert np.abs(volume.voxels_DHW[5] - between).max() <= 0.5
    assert len(scan.quarantined) == 8
    assert "4 slices are missing" in reasons(scan)[0]


def test_duplicate_slices_are_dropped_and_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", BODY)
    for path in paths[2:4]:
        (tmp_path / "a" / f"copy_{path.name}").write_bytes(path.read_bytes())

    scan = scan_folder(tmp_path)

    assert only(scan).notes == ("2 duplicate slices dropped",)
    assert reasons(scan) == ["a duplicate of another slice"] * 2
    assert np.array_equal(load_volume(only(scan)).voxels_DHW, BODY)


def test_a_series_exported_twice_is_read_once(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "a", BODY):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())

    scan = scan_folder(tmp_path)

    assert only(scan).notes == ("12 duplicate slices dropped",)


def test_one_patients_slices_never_join_anothers(tmp_path: Path) -> None:
    write_series(tmp_path / "mixed", BODY, uid="1.9", patient="p1")
    write_series(tmp_path / "mixed", BODY + np.int16(7), uid="1.9", patient="p2", first=0)

    scan = scan_folder(tmp_path)

    assert sorted(series.patient for series in scan.series) == ["p1", "p2"]
    assert all(series.notes == () for series in scan.series)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_a_truncated_file_is_left_out_and_its_slice_interpolated(
    tmp_path: Path, syntax: UID | None
) -> None:
    path = write_series(tmp_path / "a", BODY, syntax=syntax)[6]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 4 // 5])

    scan = scan_folder(tmp_path)

    assert [entry.path for entry in scan.quarantined] == [path]
    assert "truncated" in scan.quarantined[0].reason
    assert only(scan).notes == ("1 missing slice interpolated",)
    assert load_volume(only(scan)).voxels_DHW.shape == BODY.shape


def test_damaged_headers_and_other_files_never_end_a_scan(tmp_path: Path) -> None:
    content = write_series(tmp_path / "a", BODY)[0].read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content[: rng.integers(100, len(content))])
        for place in rng.integers(132, len(damaged), size=8) if len(damaged) > 140 else ():
            damaged[place] = rng.integers(256)
        (tmp_path / "a" / f"damaged{number}").write_bytes(bytes(damaged))
    (tmp_path / "notes.txt").write_text("nothing to report")
    (tmp_path / "movie.avi").write_bytes(b"RIFF" * 100)
    (tmp_path / "broken.nii.gz").write_bytes(b"no nifti")

    scan = scan_folder(tmp_path)

    assert len(scan.quarantined) >= 60
    left_out = {entry.path.name: entry.reason for entry in scan.quarantined}
    assert left_out["movie.avi"] == "neither DICOM nor NIfTI"
    assert "notes.txt" not in left_out
    assert np.array_equal(load_volume(only(scan)).voxels_DHW[1:], BODY[1:])


def test_a_scan_of_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match="no such folder"):
        scan_folder(tmp_path / "nowhere")


def test_progress_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "a", BODY)
    told: list[tuple[int, int]] = []

    scan_folder(tmp_path, progress=lambda done, total: told.append((done, total)))

    assert told[-1] == (12, 12)


def test_two_series_of_one_uid_are_told_apart(tmp_path: Path) -> None:
    def second(one: FileDataset, _: int) -> None:
        one.AcquisitionNumber = 2

    later = BODY + np.int16(50)
    write_series(tmp_path / "p1", BODY, uid="1.9")
    write_series(tmp_path / "p1", later, uid="1.9", first=0, change=second)
    write_series(tmp_path / "p1", BODY[:, :16], uid="1.9")

    scan = scan_folder(tmp_path)

    found = [load_volume(series).voxels_DHW for series in scan.series]
    assert len(found) == 3
    assert sorted(int(v.max()) for v in found) == [900, 900, 950]
    assert not scan.quarantined


def test_two_phases_that_only_their_order_tells_apart_are_two_series(tmp_path: Path) -> None:
    def later(one: FileDataset, index: int) -> None:
        one.InstanceNumber = 100 + index

    write_series(tmp_path / "p1", BODY, uid="1.9")
    write_series(tmp_path / "p1", BODY + np.int16(50), uid="1.9", change=later)

    volumes = [load_volume(series).voxels_DHW for series in scan_folder(tmp_path).series]

    assert sorted(int(v.max()) for v in volumes) == [900, 950]
    assert all(np.ptp(v - BODY) == 0 for v in volumes)


@pytest.mark.parametrize("kind", ["blank", "one for each slice"])
def test_slices_without_a_usable_series_uid_are_grouped_by_geometry(
    tmp_path: Path, kind: str
) -> None:
    def spoil(one: FileDataset, _: int) -> None:
        one.SeriesInstanceUID = "" if kind == "blank" else generate_uid()

    write_series(tmp_path / "p1", BODY, change=spoil)

    series = only(scan_folder(tmp_path))

    assert np.array_equal(load_volume(series).voxels_DHW, BODY)
    assert "grouped by geometry" in series.notes[0]


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        ("ImageType", ["DERIVED", "SECONDARY", "MPR"], "derived"),
        ("SOPClassUID", SecondaryCaptureImageStorage, "Secondary Capture"),
        ("Modality", "MR", "another modality"),
        ("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME1"),
        ("PixelSpacing", None, "PixelSpacing"),
        ("ImagePositionPatient", None, "ImagePositionPatient"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "ImageOrientationPatient"),
        ("PatientID", "", "names no patient"),
    ],
)
def test_what_is_no_ct_slice_is_left_out_with_the_reason(
    tmp_path: Path, keyword: str, value: object, reason: str
) -> None:
    def spoil(one: FileDataset, _: int) -> None:
        setattr(one, keyword, value)

    write_series(tmp_path, BODY[:3], change=spoil)

    scan = scan_folder(tmp_path)

    assert not scan.series
    assert len(scan.quarantined) == 3
    assert all(reason in text for text in reasons(scan))


def test_uneven_slices_are_refused(tmp_path: Path) -> None:
    def move(one: FileDataset, index: int) -> None:
        one.ImagePositionPatient = [-20, -15, 100 + index * 3 + (1.2 if index == 5 else 0)]

    write_series(tmp_path / "a", BODY, change=move)

    assert "not evenly apart" in reasons(scan_folder(tmp_path))[0]


def test_excluded_patients_leave_no_trace(tmp_path: Path) -> None:
    write_series(tmp_path / "x", BODY, patient="7")
    write_series(tmp_path / "y", BODY[:2], patient="07")
    write_series(tmp_path / "z", BODY, patient="8")

    def scout(one: FileDataset, _: int) -> None:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path / "x" / "scout", BODY[:1], patient="7", change=scout)

    scan = scan_folder(tmp_path, excluded=["7.0"])

    assert [series.patient for series in scan.series] == ["8"]
    assert not scan.quarantined


def test_a_link_whose_name_is_too_long_never_ends_a_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY)
    (tmp_path / "p1" / "link").symlink_to("x" * 300)

    assert len(scan_folder(tmp_path).series) == 1


def test_a_deflated_series_is_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "p1", BODY):
        one = dcmread(path)
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        one.save_as(path)

    series = only(scan_folder(tmp_path))

    assert np.array_equal(load_volume(series).voxels_DHW, BODY)
