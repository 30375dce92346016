"""NIfTI images, and masks as NIfTI, RTSTRUCT and SEG, on a volume's grid.

Legend: D, H, W as in a volume; I, J, K axes as NIfTI stores them.
"""

from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes

from fedward.client.data.volumes import (
    MaskFile,
    Scan,
    Series,
    Volume,
    load_mask,
    load_volume,
    masks_of,
    scan_folder,
    structure_names,
)
from fedward.common.errors import SiteDataError
from fedward.common.tables.schema import ImageSchema
from tests.client.dicom_files import Geometry, body, box_contour, write_rtstruct, write_series

BODY = body()
STONES = ImageSchema(structures=("kidney", "stone"), aliases={"stone": ("Calculus",)})
STONE = ImageSchema(structures=("stone",))
TUMOUR = ImageSchema(structures=("tumour",), aliases={"tumour": ("gtv-1",)})


def stone_DHW() -> NDArray[np.uint8]:
    labels = np.zeros(BODY.shape, dtype=np.uint8)
    labels[4:7, 14:18, 10:16] = 1
    return labels


def read(folder: Path) -> tuple[Scan, Series, Volume]:
    scan = scan_folder(folder)
    (series,) = scan.series
    return scan, series, load_volume(series)


def only_mask(scan: Scan, series: Series) -> MaskFile:
    (mask,) = masks_of(scan, series)
    return mask


def nifti(values_IJK: NDArray[Any], affine: NDArray[np.float64] | None) -> nib.nifti1.Nifti1Image:
    return nib.nifti1.Nifti1Image(values_IJK, affine)  # type: ignore[no-untyped-call]


def write_nifti(
    path: Path, values_DHW: NDArray[np.generic], affine: NDArray[np.float64] | None = None
) -> None:
    """Write D, H, W in LPS at 3 x 0.8 x 0.9 mm as NIfTI, turned to `affine` where it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    straight = np.array([[-0.9, 0, 0, 20], [0, -0.8, 0, 15], [0, 0, 3, 100], [0, 0, 0, 1.0]])
    image = nifti(values_DHW.transpose(2, 1, 0), straight if affine is None else affine)
    nib.save(image, path)


# NIfTI


def test_nifti_lies_as_dicom_does(tmp_path: Path) -> None:
    write_nifti(tmp_path / "n" / "p1.nii.gz", BODY)
    write_series(tmp_path / "d" / "p1", BODY)

    _, _, nifti = read(tmp_path / "n")
    _, _, dicom = read(tmp_path / "d")

    assert np.array_equal(nifti.voxels_DHW, dicom.voxels_DHW)
    assert nifti.spacing_mm == pytest.approx(dicom.spacing_mm)
    assert nifti.origin_mm == pytest.approx(dicom.origin_mm)


def test_a_turned_nifti_is_turned_back(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a" / "ct.nii.gz", BODY.astype(np.float32))
    straight: Any = nib.load(tmp_path / "a" / "ct.nii.gz")
    orientations: Any = nib.orientations
    turned = straight.as_reoriented(
        orientations.ornt_transform(
            orientations.io_orientation(straight.affine),
            orientations.axcodes2ornt(("S", "A", "R")),
        )
    )
    (tmp_path / "b").mkdir()
    nib.save(turned, tmp_path / "b" / "ct.nii.gz")

    _, _, first = read(tmp_path / "a")
    _, _, second = read(tmp_path / "b")

    assert np.array_equal(first.voxels_DHW, second.voxels_DHW)
    assert first.origin_mm == pytest.approx(second.origin_mm)


def test_the_patient_is_the_folder_or_the_stem(tmp_path: Path) -> None:
    write_nifti(tmp_path / "anna" / "scans" / "ct.nii.gz", BODY)
    write_nifti(tmp_path / "anna" / "scans" / "ct_seg.nii.gz", stone_DHW())
    write_nifti(tmp_path / "case_7.nii", BODY)
    write_nifti(tmp_path / "case_7_mask.nii", stone_DHW())
    write_nifti(tmp_path / "kits" / "imaging.nii.gz", BODY)
    write_nifti(tmp_path / "kits" / "segmentation.nii.gz", stone_DHW())

    scan = scan_folder(tmp_path)

    assert sorted(series.patient for series in scan.series) == ["anna", "case_7", "kits"]
    for series in scan.series:
        mask = only_mask(scan, series)
        assert mask.patient == series.patient
        labels = load_mask(mask, series, load_volume(series), STONE)
        assert np.array_equal(labels, stone_DHW())


@pytest.mark.parametrize("kind", ["four dimensions", "colours", "truncated", "no image"])
def test_nifti_files_that_cannot_be_used_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p1" / ("ct_mask.nii" if kind == "no image" else "ct.nii")
    path.parent.mkdir()
    values = np.zeros((4, 5, 6, 3 if kind == "four dimensions" else 1), dtype=np.int16)
    if kind == "colours":
        values = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nifti(values, np.eye(4)), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])

    scan = scan_folder(tmp_path)

    if kind == "truncated":
        with pytest.raises(SiteDataError, match="is it complete"):
            load_volume(scan.series[0])
    else:
        expected = {
            "four dimensions": "4 dimensions",
            "colours": "no single numbers",
            "no image": "an image that is not there",
        }
        assert expected[kind] in scan.quarantined[0].reason


def test_a_mask_of_a_finer_grid_is_resampled(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1" / "ct.nii.gz", BODY)
    fine = stone_DHW().repeat(2, axis=1).repeat(2, axis=2)
    affine = np.array([[-0.45, 0, 0, 20.225], [0, -0.4, 0, 15.2], [0, 0, 3, 100], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "p1" / "ct_mask.nii.gz", fine, affine)
    scan, series, volume = read(tmp_path)

    labels = load_mask(only_mask(scan, series), series, volume, STONE)

    assert np.array_equal(labels, stone_DHW())


def test_a_mask_turned_by_an_angle_is_resampled(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1" / "ct.nii.gz", BODY)
    _, series, volume = read(tmp_path)
    angle = np.radians(15)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:2, :2] = 0.5 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    affine[:3, 3] = [-25, -25, 95]
    index = np.indices((120, 120, 100)).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    ball = np.linalg.norm(places - [[3], [2], [115]], axis=0) < 6
    nib.save(
        nifti(ball.reshape(120, 120, 100).astype(np.uint8), affine),
        tmp_path / "p1" / "ct_mask.nii.gz",
    )
    scan = scan_folder(tmp_path)

    labels = load_mask(only_mask(scan, series), series, volume, STONE)

    d, h, w = np.indices(labels.shape)
    expected = (-20 + 0.9 * w + 3) ** 2 + (-15 + 0.8 * h + 2) ** 2 + (3.0 * d - 15) ** 2 < 36
    overlap = 2 * (labels.astype(bool) & expected).sum() / (labels.sum() + expected.sum())
    assert overlap > 0.95


def test_a_mask_elsewhere_and_unknown_values_are_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1" / "ct.nii.gz", BODY)
    far = np.array([[-0.9, 0, 0, 900], [0, -0.8, 0, 15], [0, 0, 3, 100], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "p1" / "ct_mask.nii.gz", stone_DHW(), far)
    scan, series, volume = read(tmp_path)
    mask = only_mask(scan, series)

    with pytest.raises(SiteDataError, match="100% of what the mask marks lies outside"):
        load_mask(mask, series, volume, STONE)
    write_nifti(mask.path, stone_DHW() * np.uint8(3))
    with pytest.raises(SiteDataError, match="not all of them 1 to 2"):
        load_mask(mask, series, volume, STONES)
    write_nifti(mask.path, stone_DHW() * np.uint8(255))
    assert load_mask(mask, series, volume, STONE).sum() == stone_DHW().sum()


def test_a_mask_of_another_size_without_a_place_is_refused(tmp_path: Path) -> None:
    for name, values in (("ct", BODY), ("ct_mask", stone_DHW()[:-2])):
        image: Any = nifti(values.transpose(2, 1, 0), None)
        image.set_qform(None, code=0)
        image.set_sform(None, code=0)
        (tmp_path / "p1").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "p1" / f"{name}.nii.gz")
    scan, series, volume = read(tmp_path)

    assert "no orientation" in series.notes[0]
    with pytest.raises(SiteDataError, match="another size"):
        load_mask(only_mask(scan, series), series, volume, STONE)


def test_a_nifti_mask_in_the_folder_of_a_dicom_series_belongs_to_it(tmp_path: Path) -> None:
    write_series(tmp_path / "folder1" / "ct", BODY, patient="ID-9")
    write_nifti(tmp_path / "folder1" / "mask.nii.gz", stone_DHW())
    scan, series, volume = read(tmp_path)

    mask = only_mask(scan, series)

    assert mask.patient == "ID-9"
    assert np.array_equal(load_mask(mask, series, volume, STONE), stone_DHW())


# RTSTRUCT


def stone_contours(geometry: Geometry) -> list[NDArray[np.float64]]:
    return [box_contour(geometry, index, (14, 18), (10, 16)) for index in (4, 5, 6)]


def test_contours_become_the_voxels_inside_them(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY, uid="1.9")
    regions = {"BODY": [], " calculus": stone_contours(Geometry())}
    write_rtstruct(tmp_path / "p1" / "rs.dcm", regions, series_uid="1.9")
    scan, series, volume = read(tmp_path)
    mask = only_mask(scan, series)

    labels = load_mask(mask, series, volume, STONES)

    assert mask.kind == "rtstruct"
    assert np.array_equal(labels, stone_DHW() * 2)
    assert structure_names(mask) == ("BODY", "calculus")


def test_a_contour_within_another_is_a_hole_and_later_structures_lie_above(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY)
    kidney = [
        box_contour(Geometry(), 5, rows, columns)
        for rows, columns in (
            ((8, 24), (6, 30)),
            ((10, 20), (20, 28)),
        )
    ]
    stone = [box_contour(Geometry(), 5, (12, 14), (8, 12))]
    write_rtstruct(tmp_path / "p1" / "rs.dcm", {"Stone": stone, "Kidney": kidney})
    scan, series, volume = read(tmp_path)

    labels = load_mask(only_mask(scan, series), series, volume, STONES)

    expected = np.zeros(BODY.shape, dtype=np.uint8)
    expected[5, 8:24, 6:30] = 1
    expected[5, 10:20, 20:28] = 0
    expected[5, 12:14, 8:12] = 2
    assert np.array_equal(labels, expected)


def test_contours_on_tilted_slices_are_where_the_tilted_values_are(tmp_path: Path) -> None:
    angle = np.radians(15.0)
    geometry = Geometry(down=(0, float(np.cos(angle)), float(np.sin(angle))), step=(0, 0, 1))
    voxels = np.full((20, 48, 40), -1000, dtype=np.int16)
    voxels[6:14, 14:30, 10:30] = 500
    contours = [box_contour(geometry, index, (14, 30), (10, 30)) for index in range(6, 14)]
    write_series(tmp_path / "p1", voxels, geometry)
    write_rtstruct(tmp_path / "p1" / "rs.dcm", {"stone": contours})
    scan, series, volume = read(tmp_path)

    labels = load_mask(only_mask(scan, series), series, volume, STONE).astype(bool)

    found = volume.voxels_DHW > -250
    assert 2 * (labels & found).sum() / (labels.sum() + found.sum()) > 0.93


def test_contours_of_another_frame_or_without_the_structures_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY, uid="1.9")
    path = tmp_path / "p1" / "rs.dcm"
    write_rtstruct(path, {"stone": stone_contours(Geometry())}, frame="9.9")
    scan, series, volume = read(tmp_path)
    mask = only_mask(scan, series)

    with pytest.raises(SiteDataError, match="another frame of reference"):
        load_mask(mask, series, volume, STONE)
    write_rtstruct(path, {"Doe's lesion": stone_contours(Geometry())})
    with pytest.raises(SiteDataError, match="none of the 1 structures") as caught:
        load_mask(mask, series, volume, STONE)
    assert "Doe" not in str(caught.value)
    write_rtstruct(path, {"stone": [box_contour(Geometry(), 40, (1, 5), (1, 5))]})
    with pytest.raises(SiteDataError, match="none of its contours"):
        load_mask(mask, series, volume, STONE)


def test_a_mask_belongs_to_the_series_that_it_names(tmp_path: Path) -> None:
    write_series(tmp_path / "p1" / "thin", BODY, uid="1.8")
    write_series(tmp_path / "p1" / "thick", BODY, uid="1.9")
    write_rtstruct(tmp_path / "p1" / "rs.dcm", {"stone": []}, series_uid="1.9")

    scan = scan_folder(tmp_path)

    counts = {series.series_uid: len(masks_of(scan, series)) for series in scan.series}
    assert counts == {"1.8": 0, "1.9": 1}


def test_the_contours_of_a_real_scan_are_the_mask_made_of_them(data_dir: Path) -> None:
    """The NIfTI mask comes with the data: IBSI's own, 125,256 voxels."""
    folder = data_dir / "ibsi1_lung_ct_dicom"
    if not folder.is_dir():
        pytest.skip("needs ibsi1_lung_ct_dicom, which is brought by hand")
    scan, series, volume = read(folder / "dicom")
    published = MaskFile(folder / "nifti" / "gtv_mask.nii.gz", "nifti", "1")

    labels = load_mask(only_mask(scan, series), series, volume, TUMOUR)
    expected = load_mask(published, series, volume, TUMOUR)

    assert expected.sum() == 125_256
    assert 2 * (labels & expected).sum() / (labels.sum() + expected.sum()) >= 0.97


# SEG


def write_seg(folder: Path, labels_DHW: NDArray[np.uint8], *, kind: str = "BINARY") -> None:
    """Write a segmentation of the folder's series, with a segment for 1 and one for 2."""
    slices = [dcmread(path) for path in sorted(folder.glob("slice*.dcm"))]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="MANUAL",
        )
        for number, label in ((1, "Kidney"), (2, "CALCULUS"))
    ]
    pixels = np.stack([labels_DHW == 1, labels_DHW == 2], axis=-1)
    segmentation = highdicom.seg.Segmentation(
        slices,
        pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(folder / "seg.dcm")


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
@pytest.mark.parametrize("geometry", [Geometry(), Geometry(across=(-1, 0, 0), down=(0, -1, 0))])
def test_segments_become_labels(tmp_path: Path, kind: str, geometry: Geometry) -> None:
    write_series(tmp_path / "p1", BODY, geometry)
    stored = stone_DHW() * np.uint8(2)
    stored[5, 20:25, 5:9] = 1
    write_seg(tmp_path / "p1", stored, kind=kind)
    scan, series, volume = read(tmp_path)
    mask = only_mask(scan, series)

    labels = load_mask(mask, series, volume, STONES)

    is_turned = geometry.across[0] < 0
    assert mask.kind == "seg"
    assert structure_names(mask) == ("Kidney", "CALCULUS")
    assert np.array_equal(labels, stored[:, ::-1, ::-1] if is_turned else stored)


def test_segments_on_tilted_slices_are_where_the_tilted_values_are(tmp_path: Path) -> None:
    angle = np.radians(15.0)
    geometry = Geometry(down=(0, float(np.cos(angle)), float(np.sin(angle))), step=(0, 0, 1))
    voxels = np.full((20, 48, 40), -1000, dtype=np.int16)
    voxels[6:14, 14:30, 10:30] = 500
    write_series(tmp_path / "p1", voxels, geometry)
    write_seg(tmp_path / "p1", (voxels == 500).astype(np.uint8))
    scan, series, volume = read(tmp_path)

    labels = load_mask(only_mask(scan, series), series, volume, STONES).astype(bool)

    found = volume.voxels_DHW > -250
    assert 2 * (labels & found).sum() / (labels.sum() + found.sum()) > 0.93


def test_a_segment_on_one_slice_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY)
    stored = np.zeros(BODY.shape, dtype=np.uint8)
    stored[7, 3:9, 4:12] = 2
    write_seg(tmp_path / "p1", stored)
    scan, series, volume = read(tmp_path)

    assert np.array_equal(load_mask(only_mask(scan, series), series, volume, STONES), stored)


def test_a_damaged_mask_is_a_data_error(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", BODY)
    write_seg(tmp_path / "p1", stone_DHW())
    scan, series, volume = read(tmp_path)
    path = tmp_path / "p1" / "seg.dcm"
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(SiteDataError, match="cannot be"):
        load_mask(only_mask(scan, series), series, volume, STONES)
