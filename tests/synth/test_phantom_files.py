"""What is written of a patient can be read back, by other people's readers."""

import hashlib
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from fedward.client.data.volumes import load_mask, load_volume, scan_folder
from fedward.common.tables.schema import ImageSchema
from fedward.synth.phantom.presets import Labels, export_of
from fedward.synth.phantom.table import table_row, write_table
from fedward.synth.phantom.writer import write_patient
from tests.synth.phantom_patient import LABELS, SCANNER, patient

SITES = pytest.mark.parametrize("site", range(5))


def written(folder: Path, *, site: int, labels: Labels = LABELS) -> Path:
    write_patient(patient(), folder, labels=labels, scanner=SCANNER, export=export_of(site))
    return folder


def slices_of(folder: Path) -> list[Dataset]:
    """Return the slices from feet to head."""
    return sorted(
        (dcmread(path) for path in (folder / "CT").iterdir()),
        key=lambda image: float(image.ImagePositionPatient[2]),
    )


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


@SITES
def test_the_pixels_of_each_slice_are_the_voxels_in_hu(tmp_path: Path, site: int) -> None:
    images = slices_of(written(tmp_path, site=site))
    found = [image.pixel_array * image.RescaleSlope + image.RescaleIntercept for image in images]
    np.testing.assert_array_equal(np.stack(found), patient().voxels_DHW)
    assert {image.file_meta.TransferSyntaxUID for image in images} == {
        export_of(site).transfer_syntax
    }


def test_sites_differ_in_transfer_syntax_and_in_the_kind_of_masks() -> None:
    exports = [export_of(site) for site in range(4)]
    assert len({export.transfer_syntax for export in exports}) == 4
    assert {export.masks for export in exports} == {"seg", "rtstruct"}


def test_a_slice_lies_where_the_phantom_says(tmp_path: Path) -> None:
    images = slices_of(written(tmp_path, site=1))
    assert [list(image.ImagePositionPatient) for image in images] == [
        [-31.25, 12.5, -307.125 + 2.5 * index] for index in range(6)
    ]
    assert images[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert images[0].PixelSpacing == [0.75, 0.75]
    assert [image.InstanceNumber for image in images] == [6, 5, 4, 3, 2, 1]


def test_headers_name_the_phantom_its_scanner_and_a_patient_without_a_birthday(
    tmp_path: Path,
) -> None:
    image = slices_of(written(tmp_path, site=0))[0]
    assert (image.PatientID, image.PatientSex, image.PatientAge) == ("site-a-00001", "F", "063Y")
    assert image.PatientBirthDate == ""
    assert (image.Manufacturer, image.ManufacturerModelName) == ("fedward phantom", "soft-2.5")
    assert (image.ConvolutionKernel, image.SliceThickness) == ("B20f", 2.5)
    assert image.QualityControlImage == "YES"


@SITES
def test_the_same_patient_of_the_same_cohort_is_the_same_bytes(tmp_path: Path, site: int) -> None:
    once = digests(written(tmp_path / "once", site=site))
    assert len(once) == 7
    assert digests(written(tmp_path / "twice", site=site)) == once


def test_no_two_cohorts_and_no_two_files_share_an_identifier(tmp_path: Path) -> None:
    other = Labels(LABELS.patient, cohort="fedcba9876543210", software="test")
    images = [
        *slices_of(written(tmp_path / "a", site=0)),
        *slices_of(written(tmp_path / "b", site=0, labels=other)),
    ]
    uids = [image.SOPInstanceUID for image in images]
    assert len(set(uids)) == 12
    assert len({image.StudyInstanceUID for image in images}) == 2
    assert all(UID(uid).is_valid for uid in uids)


@pytest.mark.parametrize("site", [0, 2])
def test_highdicom_reads_the_masks_of_a_segmentation(tmp_path: Path, site: int) -> None:
    folder = written(tmp_path, site=site)
    segmentation = highdicom.seg.segread(folder / "seg.dcm")
    names = [one.SegmentLabel for one in segmentation.SegmentSequence]
    assert names == ["kidney", "stone"]
    uids = [image.SOPInstanceUID for image in slices_of(folder)]
    found_DHW = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found_DHW, patient().mask_DHW)


def painted(contours: Dataset, images: list[Dataset]) -> NDArray[np.bool_]:
    """Return the pixels whose centres an odd number of a structure's contours enclose."""
    phantom = patient()
    inside_DHW = np.zeros(phantom.mask_DHW.shape, bool)
    rows_HW, columns_HW = np.indices(inside_DHW.shape[1:])
    x, y, _ = phantom.origin_mm
    _, height_mm, width_mm = phantom.spacing_mm
    centres_N2 = np.stack([x + columns_HW * width_mm, y + rows_HW * height_mm], -1).reshape(-1, 2)
    depth_of = {image.SOPInstanceUID: index for index, image in enumerate(images)}
    for contour in contours.ContourSequence:
        points_V3 = np.array(contour.ContourData, float).reshape(-1, 3)
        depth = depth_of[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(points_V3[:, 2], images[depth].ImagePositionPatient[2])
        enclosed_N = Polygon(points_V3[:, :2]).contains_points(centres_N2)
        inside_DHW[depth] ^= enclosed_N.reshape(rows_HW.shape)
    return inside_DHW


@pytest.mark.parametrize("site", [1, 3])
def test_contours_enclose_the_mask_with_its_holes_and_single_voxels(
    tmp_path: Path, site: int
) -> None:
    folder = written(tmp_path, site=site)
    structures = dcmread(folder / "rtstruct.dcm")
    names = [roi.ROIName for roi in structures.StructureSetROISequence]
    assert names == ["kidney", "stone"]
    images = slices_of(folder)
    for value, contours in enumerate(structures.ROIContourSequence, 1):
        found_DHW = painted(contours, images)
        np.testing.assert_array_equal(found_DHW, patient().mask_DHW == value)


def test_a_patient_without_a_voxel_of_any_structure_has_no_mask(tmp_path: Path) -> None:
    phantom = patient()
    phantom.mask_DHW[:] = 0
    write_patient(phantom, tmp_path, labels=LABELS, scanner=SCANNER, export=export_of(0))
    assert [path.name for path in tmp_path.iterdir()] == ["CT"]


def test_a_nifti_voxel_lies_where_the_phantom_says(tmp_path: Path) -> None:
    write_patient(patient(), tmp_path, labels=LABELS, scanner=SCANNER, export=None)
    image, mask = (
        nibabel.Nifti1Image.from_filename(tmp_path / name)
        for name in ("ct.nii.gz", "ct_mask.nii.gz")
    )
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, patient().voxels_DHW)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T, patient().mask_DHW)
    x, y, z = patient().origin_mm
    right_front_up = image.affine @ [3, 4, 5, 1]  # w, h, d
    np.testing.assert_allclose(
        right_front_up[:3], [-(x + 3 * 0.75), -(y + 4 * 0.75), z + 5 * 2.5], rtol=1e-6
    )
    np.testing.assert_array_equal(mask.affine, image.affine)


@pytest.mark.parametrize("site", [0, 1, 2, 3, 4, None])
def test_a_hospital_reads_voxels_masks_and_grid_as_they_were(
    tmp_path: Path, site: int | None
) -> None:
    export = None if site is None else export_of(site)
    write_patient(
        patient(), tmp_path / LABELS.patient, labels=LABELS, scanner=SCANNER, export=export
    )
    scan = scan_folder(tmp_path)
    assert [series.patient for series in scan.series] == [LABELS.patient]
    assert scan.quarantined == ()
    volume = load_volume(scan.series[0])
    np.testing.assert_array_equal(volume.voxels_DHW, patient().voxels_DHW)
    assert volume.spacing_mm == pytest.approx(patient().spacing_mm)
    assert volume.origin_mm == pytest.approx(patient().origin_mm)
    schema = ImageSchema(structures=("kidney", "stone"))
    found_DHW = load_mask(scan.masks[0], scan.series[0], volume, schema)
    np.testing.assert_array_equal(found_DHW, patient().mask_DHW)


def test_a_missing_value_is_an_empty_cell(tmp_path: Path) -> None:
    row = table_row("site-a-00001", "abdomen", patient())
    write_table(tmp_path / "patients.csv", "abdomen", [row])
    assert (tmp_path / "patients.csv").read_text(encoding="utf-8").splitlines() == [
        "patient,age,sex,blood_wbc,creatinine,urine_wbc,urine_ph,location,infection",
        "site-a-00001,63,F,7.12346,,3,6.5,left-kidney,1",
    ]


@SITES
def test_an_independent_validator_finds_nothing_wrong(tmp_path: Path, site: int) -> None:
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")
    folder = written(tmp_path, site=site)
    masks = next(folder.glob("*.dcm"))
    for path, expected in ((folder / "CT" / "0001.dcm", "CTImage"), (masks, "")):
        result = subprocess.run([validator, path], capture_output=True, text=True, check=False)
        said = result.stdout + result.stderr
        assert result.returncode == 0, said
        assert "Error" not in said
        assert expected in said


def test_slices_are_evenly_apart_in_any_order_of_their_numbers(tmp_path: Path) -> None:
    for site in (0, 1):
        images = slices_of(written(tmp_path / str(site), site=site))
        heights = [float(image.ImagePositionPatient[2]) for image in images]
        assert {round(high - low, 6) for low, high in pairwise(heights)} == {2.5}
