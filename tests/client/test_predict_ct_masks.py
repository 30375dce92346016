"""Masks of predictions: where the scan is, as NIfTI and as DICOM Segmentation.

Legend: D, H, W as in a volume.
"""

import dataclasses
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes

from fedward.client.data.volumes import load_mask, load_volume, masks_of, scan_folder
from fedward.common.tables.schema import ImageSchema
from tests.client.dicom_files import Geometry, write_enhanced, write_series
from tests.client.scan_models import (
    ORIGIN_MM,
    SPACING_MM,
    STONES_MM,
    stone_mask,
    threshold_model,
)
from tests.client.scan_predictions import (
    ABDOMEN,
    KIDNEY,
    PLACE,
    facts_in,
    is_above,
    is_within_a_voxel,
    nifti_of,
    predicted,
    upright,
)


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output for a DICOM series whose columns and slices run the other way."""
    folder = tmp_path_factory.mktemp("kidneys")
    last_mm = SPACING_MM[2] * (ABDOMEN.shape[2] - 1), SPACING_MM[0] * (ABDOMEN.shape[0] - 1)
    turned = Geometry(
        SPACING_MM,
        (ORIGIN_MM[0] + last_mm[0], ORIGIN_MM[1], ORIGIN_MM[2] + last_mm[1]),
        across=(-1.0, 0.0, 0.0),
    )
    write_series(folder / "in" / "p1", ABDOMEN[::-1, :, ::-1], turned)
    model = threshold_model("ct-abdomen", task="ct-kidney", **KIDNEY)
    predicted(model, folder / "in", folder / "out")
    return folder


def test_stones_in_kidneys_have_their_true_size_place_and_side(kidneys: Path) -> None:
    (series,) = facts_in(kidneys / "out")["series"]
    assert len(series["lesions"]) == 2
    sides = ("right", "left")
    for lesion, (centre, radius), side in zip(series["lesions"], STONES_MM, sides, strict=True):
        assert (lesion["structure"], lesion["side"]) == ("stone", side)
        assert lesion["method"] == "half-maximum"
        assert lesion["diameter_mm"] == pytest.approx(2 * radius, abs=max(SPACING_MM))
        assert lesion["volume_mm3"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.1)
        assert 850 < lesion["max_hu"] < 1000
        there = [lesion[f"centre_{axis}_mm"] for axis in "xyz"]
        expected = np.array(ORIGIN_MM) + np.array(centre)[::-1]
        assert there == pytest.approx(expected.tolist(), abs=0.4)


def test_the_spine_is_no_stone_and_the_mask_is_within_a_voxel(kidneys: Path) -> None:
    labels_DHW = upright(kidneys / "out" / "masks" / "0001.nii.gz")
    assert is_within_a_voxel(labels_DHW == 2, stone_mask())
    kidney = {one["structure"]: one["volume_mm3"] for one in
              facts_in(kidneys / "out")["series"][0]["structures"]}["kidney"]  # fmt: skip
    assert kidney == pytest.approx(2 * 4 / 3 * np.pi * 28 * 16 * 14, rel=0.1)


def test_the_nifti_lies_where_the_dicom_slices_do(kidneys: Path) -> None:
    image = nifti_of(kidneys / "out" / "masks" / "0001.nii.gz")
    headers = [dcmread(path) for path in sorted((kidneys / "in").rglob("*.dcm"))]
    labels = np.asarray(image.dataobj)
    index = np.argwhere(labels == 2)[0]
    x, y, z = (image.affine @ [*index, 1])[:3] * [-1, -1, 1]
    assert image.get_sform(coded=True)[1] == 1
    (header,) = [one for one in headers if abs(one.ImagePositionPatient[2] - z) < 1e-3]
    column = (header.ImagePositionPatient[0] - x) / header.PixelSpacing[1]
    row = (y - header.ImagePositionPatient[1]) / header.PixelSpacing[0]
    assert (column, row) == pytest.approx((index[0], index[1]), abs=1e-3)
    assert header.pixel_array[round(row), round(column)] - 1024 > 130
    assert nib.aff2axcodes(image.affine) == ("R", "P", "I")  # type: ignore[no-untyped-call]


def test_the_segmentation_is_the_mask_and_refers_to_its_slices(kidneys: Path) -> None:
    masks = kidneys / "out" / "masks"
    seg = highdicom.seg.segread(masks / "0001.dcm")
    headers = sorted(
        (dcmread(path, stop_before_pixels=True) for path in (kidneys / "in").rglob("*.dcm")),
        key=lambda one: float(one.ImagePositionPatient[2]),
    )
    stored_NRCS = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in headers], assert_missing_frames_are_empty=True
    )
    # Slices were sorted from the feet here, and are stored from the head.
    labels_NRC = np.asarray(nifti_of(masks / "0001.nii.gz").dataobj).transpose(2, 1, 0)[::-1]
    for number in (1, 2):
        assert (labels_NRC == number).any()
        assert np.array_equal(stored_NRCS[..., number - 1] > 0, labels_NRC == number)
    first: Dataset = headers[0]
    assert (seg.PatientID, seg.StudyInstanceUID) == (first.PatientID, first.StudyInstanceUID)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID
    kidney, stone = (seg.get_segment_description(number) for number in (1, 2))
    assert kidney.segmented_property_type == codes.SCT.Kidney
    assert stone.segmented_property_type.value == "56381008"
    assert (kidney.segment_label, kidney.algorithm_type.value) == ("kidney", "AUTOMATIC")


def test_our_own_reader_takes_the_segmentation_as_a_mask_of_the_series(
    kidneys: Path, tmp_path: Path
) -> None:
    for path in (*(kidneys / "in").rglob("*.dcm"), kidneys / "out" / "masks" / "0001.dcm"):
        (tmp_path / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    scan = scan_folder(tmp_path)
    (series,) = scan.series
    volume = load_volume(series)
    assert np.array_equal(volume.voxels_DHW, ABDOMEN)
    schema = ImageSchema(structures=("kidney", "stone"))
    read_DHW = load_mask(masks_of(scan, series)[0], series, volume, schema)
    assert np.array_equal(read_DHW, upright(kidneys / "out" / "masks" / "0001.nii.gz"))


def _tilted() -> Geometry:
    step = (0.0, float(np.sin(0.2)), float(np.cos(0.2)))
    return dataclasses.replace(PLACE, step=step)


def test_a_tilted_scan_gets_its_mask_on_its_own_slices(tmp_path: Path) -> None:
    part = ABDOMEN[20:44, 30:90, 20:80]
    write_series(tmp_path / "in" / "p1", part, _tilted())
    model = threshold_model()
    found = predicted(model, tmp_path / "in", tmp_path / "out")
    image = nifti_of(tmp_path / "out" / "masks" / "0001.nii.gz")
    assert image.shape == part.shape[::-1]
    true_DHW = part >= 350
    found_DHW = np.asarray(image.dataobj).transpose(2, 1, 0) > 0
    assert is_within_a_voxel(found_DHW, true_DHW)
    assert found.num_segmentations == 1
    seg = highdicom.seg.segread(tmp_path / "out" / "masks" / "0001.dcm")
    headers = [dcmread(path) for path in sorted((tmp_path / "in").rglob("*.dcm"))]
    headers.sort(key=lambda one: int(one.InstanceNumber))
    stored = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in headers],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(stored[..., 0] > 0, found_DHW)


def test_frames_of_an_enhanced_scan_are_referred_to_one_by_one(tmp_path: Path) -> None:
    part = ABDOMEN[20:44, 30:90, 20:80]
    write_enhanced(tmp_path / "in" / "p1" / "all.dcm", part, PLACE)
    predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    seg = highdicom.seg.segread(tmp_path / "out" / "masks" / "0001.dcm")
    source = dcmread(tmp_path / "in" / "p1" / "all.dcm")
    stored_NRCS = seg.get_pixels_by_source_frame(
        source.SOPInstanceUID,
        list(range(1, len(part) + 1)),
        assert_missing_frames_are_empty=True,
    )
    # The file's frames run from the last slice to the first.
    assert is_above(stored_NRCS[::-1, ..., 0] > 0, part)


def test_a_series_without_uids_has_a_mask_and_says_why_no_segmentation(tmp_path: Path) -> None:
    def without(one: FileDataset, index: int) -> None:
        one.SeriesInstanceUID = ""

    write_series(tmp_path / "in" / "p1", ABDOMEN[30:44, 30:80, 20:80], PLACE, change=without)
    found = predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    assert found.num_segmentations == 0
    (series,) = facts_in(tmp_path / "out")["series"]
    assert list(series["files"]) == ["mask"]
    assert "it lacks SeriesInstanceUID" in series["notes"][-1]


def test_a_nifti_scan_gets_its_mask_with_its_own_axes(tmp_path: Path) -> None:
    part = ABDOMEN[20:44, 30:90, 20:80]
    affine = np.array([[0, 0, 0.8, 10], [-0.8, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 0, 1.0]])
    stored = part.transpose(1, 0, 2)
    image = nib.nifti1.Nifti1Image(stored, affine)  # type: ignore[no-untyped-call]
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "p1.nii.gz")
    found = predicted(threshold_model(), tmp_path / "in", tmp_path / "out")
    mask = nifti_of(tmp_path / "out" / "masks" / "0001.nii.gz")
    assert mask.affine == pytest.approx(affine)
    assert is_above(np.asarray(mask.dataobj) > 0, stored)
    assert found.num_segmentations == 0
