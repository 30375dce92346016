"""Whose a scan or mask is where identifiers, folders and file names disagree."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.ct_source import CtSource
from fedward.client.data.volumes import Scan, load_mask, load_volume, masks_of, scan_folder
from fedward.common.config.image import ImageConfig
from fedward.common.images.rows import IMAGE
from fedward.common.tables.schema import ImageSchema
from tests.client.ct_folder import STONES, write_nifti, write_table
from tests.client.dicom_files import (
    Geometry,
    body,
    box_contour,
    write_enhanced,
    write_rtstruct,
    write_series,
)

BODY = body()
STONE = ImageSchema(structures=("stone",))
SPACING_MM = 3.0


def labels(place: int) -> NDArray[np.uint8]:
    found = np.zeros(BODY.shape, dtype=np.uint8)
    found[place : place + 2, 14:18, 10:16] = 1
    return found


def masks_by_folder(scan: Scan) -> dict[str, list[str]]:
    return {
        series.files[0].parent.name: sorted(
            mask.path.parent.name for mask in masks_of(scan, series)
        )
        for series in scan.series
    }


def test_a_mask_stays_in_its_folder_where_all_patients_bear_one_id(tmp_path: Path) -> None:
    for number, name in enumerate(("p1", "p2")):
        write_series(tmp_path / name, BODY, patient="ANON")
        write_nifti(tmp_path / name / "mask.nii.gz", labels(2 + 4 * number))

    assert masks_by_folder(scan_folder(tmp_path)) == {"p1": ["p1"], "p2": ["p2"]}


def test_a_mask_of_an_image_that_is_not_there_is_of_no_other_image(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1" / "before.nii.gz", BODY)
    write_nifti(tmp_path / "p1" / "before_mask.nii.gz", labels(2))
    write_nifti(tmp_path / "p1" / "after_mask.nii.gz", labels(6))
    (tmp_path / "p2").mkdir()
    write_nifti(tmp_path / "p2" / "before.nii.gz", BODY)
    (tmp_path / "p2" / "after.nii.gz").write_bytes(b"damaged")
    write_nifti(tmp_path / "p2" / "after_mask.nii.gz", labels(6))

    scan = scan_folder(tmp_path)

    found = [[mask.path.name for mask in masks_of(scan, series)] for series in scan.series]
    assert found == [["before_mask.nii.gz"], []]
    left_out = {entry.path.parent.name + "/" + entry.path.name for entry in scan.quarantined}
    assert left_out == {"p1/after_mask.nii.gz", "p2/after.nii.gz", "p2/after_mask.nii.gz"}


def test_a_patient_is_excluded_by_every_file_and_by_the_name_of_a_mask(tmp_path: Path) -> None:
    write_series(tmp_path / "8", BODY[:6], patient="ANON", uid="1.5")
    upper = Geometry(origin_mm=(-20.0, -15.0, 100.0 + 6 * SPACING_MM))
    write_series(tmp_path / "7", BODY[6:], upper, patient="ANON", uid="1.5")
    write_nifti(tmp_path / "7_mask.nii.gz", labels(2))
    write_nifti(tmp_path / "9.nii.gz", BODY)

    scan = scan_folder(tmp_path, excluded=["7"])

    assert [series.patient for series in scan.series] == ["9"]
    assert not scan.masks
    assert not scan.quarantined


def test_contours_between_slices_add_up_where_the_image_is_thicker(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY)
    # Two planes a slice, as drawn on thinner slices of the same scanning.
    contours = [box_contour(Geometry(), 5 + shift, (14, 18), (10, 16)) for shift in (-0.25, 0.25)]
    write_rtstruct(tmp_path / "p1" / "rs.dcm", {"stone": contours})
    scan = scan_folder(tmp_path)
    (series,) = scan.series
    (mask,) = masks_of(scan, series)

    found = load_mask(mask, series, load_volume(series), STONE)

    assert found.sum() == 4 * 6
    assert found[5, 14:18, 10:16].all()


class TwoPhases(Geometry):
    """Of twice as many frames: each place twice."""

    def position(self, index: float) -> list[float]:
        return super().position(index % len(BODY))


def test_two_phases_in_one_file_are_cached_apart(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    both = np.concatenate([BODY, np.where(BODY > 0, BODY + np.int16(50), BODY)])
    write_enhanced(folder / "p1" / "both.dcm", both, TwoPhases())
    write_table(folder, ["p1", "p2"])
    image = ImageConfig(size=BODY.shape, rows="volume", window=(-1000, 400))

    table = CtSource("west", folder, STONES, image, cache=tmp_path / "cache").read()

    assert sorted(table.arrays[IMAGE].max(axis=(1, 2, 3)).tolist()) == [0, 900, 950]
