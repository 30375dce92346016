"""Writes real DICOM files for tests: CT series, enhanced CT, RTSTRUCT and SEG.

Legend: D, H, W as in a volume; P points of a contour, X their x, y, z.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from fedward.client.data.volumes import Scan, Series

INTERCEPT = -1024


@dataclass(frozen=True)
class Geometry:
    """How slices lie; the defaults are an axial scan of a patient on the back."""

    spacing_mm: tuple[float, float, float] = (3.0, 0.8, 0.9)
    origin_mm: tuple[float, float, float] = (-20.0, -15.0, 100.0)
    across: tuple[float, float, float] = (1.0, 0.0, 0.0)
    down: tuple[float, float, float] = (0.0, 1.0, 0.0)
    step: tuple[float, float, float] | None = None
    """Unit vector from slice to slice; absent: the normal."""

    def position(self, index: float) -> list[float]:
        """Return x, y, z of the first pixel of a slice."""
        along = np.cross(self.across, self.down) if self.step is None else np.array(self.step)
        return [
            round(float(v), 4)
            for v in np.array(self.origin_mm) + index * self.spacing_mm[0] * along
        ]


def body(shape: tuple[int, int, int] = (12, 32, 40)) -> NDArray[np.int16]:
    """Return (D, H, W) HU: air round a body of soft tissue that differs in every direction."""
    d, h, w = np.indices(shape)
    inside = ((h - shape[1] / 2) / shape[1]) ** 2 + ((w - shape[2] / 2) / shape[2]) ** 2 < 0.16
    values = np.where(inside, 20 + 3 * d + h + w // 2, -1000)
    values[4:7, 14:18, 10:16] = 900
    return values.astype(np.int16)


def only(scan: Scan) -> Series:
    """Return the one series of a scan."""
    (series,) = scan.series
    return series


def dataset_of(
    sop_class: UID | str, path: Path, *, patient: str, modality: str, syntax: UID
) -> FileDataset:
    """Return an empty dataset that can be saved."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientID = patient
    dataset.PatientName = "SECRET^NAME"
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "O"
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality = modality
    return dataset


def write_series(
    folder: Path,
    voxels_DHW: NDArray[np.int16],
    geometry: Geometry | None = None,
    *,
    patient: str = "p1",
    uid: str | None = None,
    study: str = "1.2.3",
    frame: str = "1.2.3.4",
    syntax: UID | None = None,
    first: int = 0,
    change: Callable[[FileDataset, int], None] | None = None,
) -> list[Path]:
    """Write one file per slice; `change` may alter a dataset before it is saved."""
    geometry = geometry or Geometry()
    uid = generate_uid() if uid is None else uid
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, values_HW in enumerate(voxels_DHW):
        path = folder / f"slice{(index * 7 + first) % 1000:03}_{len(list(folder.iterdir()))}.dcm"
        one = dataset_of(
            CTImageStorage, path, patient=patient, modality="CT", syntax=ExplicitVRLittleEndian
        )
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, uid, frame
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.Manufacturer, one.ConvolutionKernel = "maker", "B30f"
        one.SliceThickness, one.InstanceNumber = 7.0, first + index + 1
        one.ImagePositionPatient = geometry.position(first + index)
        one.ImageOrientationPatient = [*geometry.across, *geometry.down]
        one.PixelSpacing = list(geometry.spacing_mm[1:])
        one.RescaleSlope, one.RescaleIntercept = 1, INTERCEPT
        put_pixels(one, values_HW - INTERCEPT)
        if change is not None:
            change(one, index)
        if syntax is not None:
            one.compress(syntax)
        one.save_as(path, enforce_file_format=False)
        paths.append(path)
    return paths


def put_pixels(dataset: Dataset, stored: NDArray[np.integer[Any]]) -> None:
    """Store unsigned pixels of 16 bits."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = stored.astype("<u2").tobytes()


def write_enhanced(path: Path, voxels_DHW: NDArray[np.int16], geometry: Geometry) -> None:
    """Write one enhanced CT, its frames from the last slice to the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    one = dataset_of(
        EnhancedCTImageStorage, path, patient="p1", modality="CT", syntax=ExplicitVRLittleEndian
    )
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", generate_uid()
    one.FrameOfReferenceUID, one.InstanceNumber = "1.2.3.4", 1
    one.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, turn, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(geometry.spacing_mm[1:]), 7.0
    turn.ImageOrientationPatient = [*geometry.across, *geometry.down]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, INTERCEPT, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [turn]
    shared.PixelValueTransformationSequence = [values]
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in reversed(range(len(voxels_DHW))):
        own, place = Dataset(), Dataset()
        place.ImagePositionPatient = geometry.position(index)
        own.PlanePositionSequence = [place]
        frames.append(own)
    one.PerFrameFunctionalGroupsSequence = frames
    one.NumberOfFrames = len(frames)
    put_pixels(one, voxels_DHW[::-1] - INTERCEPT)
    one.save_as(path)


def box_contour(
    geometry: Geometry, index: float, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the (P, X) corners of pixels [first, last) on a slice, along their edges."""
    h0, h1 = rows[0] - 0.5, rows[1] - 0.5
    w0, w1 = columns[0] - 0.5, columns[1] - 0.5
    corners = [(h0, w0), (h0, w1), (h1, w1), (h1, w0)]
    down = np.array(geometry.down) * geometry.spacing_mm[1]
    across = np.array(geometry.across) * geometry.spacing_mm[2]
    start = np.array(geometry.position(index))
    return np.array([start + h * down + w * across for h, w in corners])


def write_rtstruct(
    path: Path,
    regions: Mapping[str, Sequence[NDArray[np.float64]]],
    *,
    series_uid: str = "",
    frame: str = "1.2.3.4",
    patient: str = "p1",
) -> None:
    """Write contours by the name of their region."""
    one = dataset_of(
        RTStructureSetStorage,
        path,
        patient=patient,
        modality="RTSTRUCT",
        syntax=ExplicitVRLittleEndian,
    )
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", generate_uid()
    reference, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = series_uid
    study.RTReferencedSeriesSequence = [series] if series_uid else []
    reference.FrameOfReferenceUID = frame
    reference.RTReferencedStudySequence = [study]
    one.ReferencedFrameOfReferenceSequence = [reference]
    one.StructureSetROISequence, one.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        for points_PX in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points_PX)
            contour.ContourData = [f"{value:.6g}" for value in points_PX.reshape(-1)]
            drawn.ContourSequence.append(contour)
        one.StructureSetROISequence.append(roi)
        one.ROIContourSequence.append(drawn)
    one.save_as(path)
