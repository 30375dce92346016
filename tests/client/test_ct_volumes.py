"""DICOM series as volumes: geometry, HU and compression.

Legend: D, H, W as in a volume.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from fedward.client.data.volumes import Volume, check_hu, load_volume, scan_folder
from fedward.common.errors import SiteDataError
from tests.client.dicom_files import Geometry, body, only, write_enhanced, write_series

BODY = body()


def test_a_series_is_read_in_hu_with_spacing_from_positions(tmp_path: Path) -> None:
    write_series(tmp_path / "a", BODY)

    scan = scan_folder(tmp_path)
    volume = load_volume(only(scan))

    assert np.array_equal(volume.voxels_DHW, BODY)
    assert volume.voxels_DHW.dtype == np.int16
    assert volume.spacing_mm == pytest.approx((3.0, 0.8, 0.9))  # SliceThickness says 7
    assert volume.origin_mm == pytest.approx((-20.0, -15.0, 100.0))
    assert not scan.quarantined
    assert only(scan).facts["manufacturer"] == "maker"
    assert not {"SECRET^NAME", "19500101"} & set(map(str, only(scan).facts.values()))


def test_nothing_of_a_scan_shows_a_patient_when_printed(tmp_path: Path) -> None:
    write_series(tmp_path / "secret7", BODY, patient="secret7")

    scan = scan_folder(tmp_path)

    assert "secret7" not in repr(scan) + repr(only(scan)) + repr(only(scan).stack)


@pytest.mark.parametrize(
    ("geometry", "turned"),
    [
        (Geometry(across=(-1, 0, 0), down=(0, -1, 0)), lambda v: v[:, ::-1, ::-1]),
        (Geometry(across=(1, 0, 0), down=(0, -1, 0)), lambda v: v[::-1, ::-1]),
        (Geometry(across=(1, 0, 0), down=(0, 0, -1)), lambda v: v.transpose(1, 0, 2)[::-1]),
        (
            Geometry(across=(0, 1, 0), down=(0, 0, -1)),
            lambda v: v.transpose(1, 2, 0)[::-1, :, ::-1],
        ),
    ],
    ids=["prone", "feet first", "coronal", "sagittal"],
)
def test_every_orientation_becomes_left_posterior_superior(
    tmp_path: Path, geometry: Geometry, turned: Callable[[NDArray[np.int16]], NDArray[np.int16]]
) -> None:
    write_series(tmp_path / "a", BODY, geometry)

    volume = load_volume(only(scan_folder(tmp_path)))

    assert np.array_equal(volume.voxels_DHW, turned(BODY))
    place_mm = place_of(volume, volume.voxels_DHW == BODY.max())
    steps = np.stack(
        [
            np.cross(geometry.across, geometry.down) * geometry.spacing_mm[0],
            np.array(geometry.down) * geometry.spacing_mm[1],
            np.array(geometry.across) * geometry.spacing_mm[2],
        ]
    )
    expected_mm = (
        np.array(geometry.origin_mm) + np.argwhere(BODY.max() == BODY).mean(axis=0) @ steps
    )
    assert place_mm == pytest.approx(expected_mm, abs=0.01)


def place_of(volume: Volume, chosen_DHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return x, y, z of the middle of the chosen voxels."""
    middle = np.argwhere(chosen_DHW).mean(axis=0) * volume.spacing_mm
    return np.asarray(volume.origin_mm + middle[::-1])


def test_a_gantry_tilt_is_taken_out(tmp_path: Path) -> None:
    angle = np.radians(12.0)
    geometry = Geometry(down=(0, float(np.cos(angle)), float(np.sin(angle))), step=(0, 0, 1))
    # A rod along z: in tilted slices it lies one step further each time, upright it is straight.
    voxels = np.full((30, 64, 40), -1000, dtype=np.int16)
    for index in range(30):
        # y of row h is -15 + .8 h cos(angle), whatever the slice.
        voxels[index, 30:36, 18:24] = 100
    write_series(tmp_path / "a", voxels, geometry)

    series = only(scan_folder(tmp_path))
    volume = load_volume(series)

    assert series.notes == ("gantry tilt of 12.0 degrees corrected",)
    assert volume.spacing_mm == pytest.approx((3.0, 0.8, 0.9))
    rod_DHW = volume.voxels_DHW > -450
    heights = [np.argwhere(rod_HW)[:, 0].mean() for rod_HW in rod_DHW if rod_HW.any()]
    assert max(heights) - min(heights) < 1.0
    expected_y_mm = -15 + 0.8 * 32.5 * np.cos(angle)
    middle_mm = place_of(volume, rod_DHW)
    assert middle_mm[1] == pytest.approx(expected_y_mm, abs=0.4)
    assert middle_mm[2] == pytest.approx(100 + 14.5 * 3 + 0.8 * 32.5 * np.sin(angle), abs=1.5)


def test_an_oblique_scan_keeps_places_and_sizes(tmp_path: Path) -> None:
    angle = np.radians(20.0)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0), across=(cos, sin, 0), down=(-sin, cos, 0))
    voxels = np.full((20, 40, 40), -1000, dtype=np.int16)
    voxels[6:14, 10:20, 22:32] = 100
    write_series(tmp_path / "a", voxels, geometry)

    series = only(scan_folder(tmp_path))
    volume = load_volume(series)

    assert series.notes == ("oblique slices resampled to the axes of the body",)
    found_DHW = volume.voxels_DHW > -450
    assert found_DHW.sum() == pytest.approx(800, rel=0.05)
    steps = np.array([[0, 0, 1], [-sin, cos, 0], [cos, sin, 0]])
    expected_mm = np.array(geometry.origin_mm) + np.array([9.5, 14.5, 26.5]) @ steps
    assert place_of(volume, found_DHW) == pytest.approx(expected_mm, abs=0.3)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_are_the_same(tmp_path: Path, syntax: UID) -> None:
    write_series(tmp_path / "a", BODY[:4], syntax=syntax)

    series = only(scan_folder(tmp_path))

    assert series.facts["transfer_syntax"] == syntax.name
    assert np.array_equal(load_volume(series).voxels_DHW, BODY[:4])


def write_lossless_jpeg(folder: Path, voxels_DHW: NDArray[np.int16]) -> list[Path]:
    gdcm = pytest.importorskip("gdcm")
    paths = write_series(folder, voxels_DHW)
    for path in paths:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
    return paths


def test_lossless_jpeg_is_read(tmp_path: Path) -> None:
    write_lossless_jpeg(tmp_path / "a", BODY[:4])

    series = only(scan_folder(tmp_path))

    assert series.facts["transfer_syntax"] == JPEGLosslessSV1.name
    assert np.array_equal(load_volume(series).voxels_DHW, BODY[:4])


def test_an_enhanced_ct_of_many_frames_is_one_series(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a" / "enhanced.dcm", BODY, Geometry())

    series = only(scan_folder(tmp_path))
    volume = load_volume(series)

    assert np.array_equal(volume.voxels_DHW, BODY)
    assert volume.spacing_mm == pytest.approx((3.0, 0.8, 0.9))


def test_a_file_without_preamble_and_meta_group_is_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "a", BODY):
        dataset = dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"

    assert np.array_equal(load_volume(only(scan_folder(tmp_path))).voxels_DHW, BODY)


def test_slope_signed_pixels_and_padding_give_hu(tmp_path: Path) -> None:
    def store(one: FileDataset, index: int) -> None:
        stored = (BODY[index].astype(int) - 500) * 2
        stored[:3] = -30000
        one.PixelRepresentation, one.RescaleSlope, one.RescaleIntercept = 1, 0.5, 500
        one.add_new("PixelPaddingValue", "SS", -30000)
        one.PixelData = stored.astype("<i2").tobytes()

    write_series(tmp_path / "a", BODY, change=store)

    volume = load_volume(only(scan_folder(tmp_path)))

    expected = BODY.copy()
    expected[:, :3] = -1000
    assert np.array_equal(volume.voxels_DHW, expected)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
def test_pixels_that_cannot_be_decoded_are_a_data_error_and_end_nothing(
    tmp_path: Path, syntax: UID
) -> None:
    # GDCM's decoders call abort() on these bytes.
    if syntax == JPEGLosslessSV1:
        path = write_lossless_jpeg(tmp_path / "a", BODY)[3]
    else:
        path = write_series(tmp_path / "a", BODY, syntax=syntax)[3]
    series = only(scan_folder(tmp_path))
    content = path.read_bytes()
    start = content.rindex(b"\xff\x4f" if syntax == JPEG2000Lossless else b"\xff\xd8")
    path.write_bytes(content[: start + 4] + b"\xff" * 60 + content[start + 64 :])

    with pytest.raises(SiteDataError, match="cannot be decoded"):
        load_volume(series)


@pytest.mark.parametrize(
    ("offset", "problem"), [(0, None), (1024, "1024 too high"), (-1024, "1024 too low")]
)
def test_values_that_are_1024_off_are_named(offset: int, problem: str | None) -> None:
    noisy = BODY + np.random.default_rng(0).normal(0, 12, BODY.shape)
    whole = np.rint(np.maximum(noisy, -1024) + offset).astype(np.int16)
    inside = np.ascontiguousarray(whole[:, 12:20, 14:26])
    for voxels in (whole, inside):
        found = check_hu(Volume(voxels, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
        assert (found is None) if problem is None else (problem in str(found))


def test_grey_values_and_constants_are_no_hu() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(np.int16)

    assert "shades of grey" in str(check_hu(Volume(grey, (1, 1, 1), (0, 0, 0))))
    assert "same value" in str(check_hu(Volume(grey * 0 + 5, (1, 1, 1), (0, 0, 0))))


def test_a_missing_intercept_is_noted_and_its_offset_found(tmp_path: Path) -> None:
    def drop(one: Dataset, _: int) -> None:
        del one.RescaleIntercept, one.RescaleSlope

    write_series(tmp_path / "a", BODY, change=drop)

    series = only(scan_folder(tmp_path))

    assert "RescaleIntercept" in series.notes[0]
    assert "1024 too high" in str(check_hu(load_volume(series)))


def test_the_reader_keeps_explicit_syntax_facts(tmp_path: Path) -> None:
    write_series(tmp_path / "a", BODY)

    assert only(scan_folder(tmp_path)).facts["transfer_syntax"] == ExplicitVRLittleEndian.name
