"""A phantom as a DICOM series of the CT Image Storage class, one file per slice.

Legend: D slices from feet to head, H rows from front to back, W columns from the patient's right to
the left; x, y, z in millimetres grow to left, posterior, superior (LPS).

Source: DICOM PS3.3 2024, A.3 (CT Image IOD) and C.8.2.1 (CT Image Module).
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from fedward.synth.phantom.case import Phantom
from fedward.synth.phantom.presets import Export, Labels
from fedward.synth.phantom.scanner import Scanner

INTERCEPT_HU = -1024
MANUFACTURER = "fedward phantom"
DATE = "20260101"
TIME = "120000"
# Named, because encoders of the same pixels write different bytes.
_ENCODERS = {JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls", RLELossless: "gdcm"}
_LEAST_JPEG_2000 = 32
"""OpenJPEG halves a slice five times; smaller ones are written without compression."""


def write_series(
    phantom: Phantom, folder: Path, *, labels: Labels, scanner: Scanner, export: Export
) -> list[Dataset]:
    """Write a file per slice into `folder` and return their headers from feet to head, no pixels.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = _encoded(_shared(phantom, labels, scanner))
    num_slices = len(phantom.voxels_DHW)
    compress = _compressor(export, smallest=min(phantom.voxels_DHW.shape[1:]))
    headers = []
    for index, slice_HW in enumerate(phantom.voxels_DHW):
        number = num_slices - index if export.head_first else index + 1
        header = _header(phantom, labels, index=index, number=number)
        header.update(shared)
        image = Dataset(header)
        image.file_meta = _file_meta(header, export.transfer_syntax)
        stored_HW = (slice_HW.astype(np.int32) - INTERCEPT_HU).astype(np.uint16)
        image.PixelData = stored_HW.tobytes()
        image["PixelData"].VR = "OW"
        compress(image)
        image.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
        headers.append(header)
    return headers


def patient_and_study(phantom: Phantom, labels: Labels) -> Dataset:
    """Return the attributes that all files of a patient share: Patient and General Study."""
    age, sex = phantom.clinical.get("age"), phantom.clinical.get("sex")
    header = Dataset()
    header.PatientName = f"Phantom^{labels.patient}"
    header.PatientID = labels.patient
    header.PatientBirthDate = ""
    header.PatientSex = sex if isinstance(sex, str) else ""
    header.PatientAge = f"{int(age):03d}Y" if isinstance(age, float | int) else ""
    header.StudyInstanceUID = labels.uid("study")
    header.StudyDate, header.StudyTime = DATE, TIME
    header.StudyID = "1"
    header.ReferringPhysicianName = ""
    header.AccessionNumber = ""
    return header


def equipment(labels: Labels) -> Dataset:
    """Return the General Equipment attributes."""
    header = Dataset()
    header.Manufacturer = MANUFACTURER
    header.SoftwareVersions = labels.software
    return header


def _shared(phantom: Phantom, labels: Labels, scanner: Scanner) -> Dataset:
    depth_mm, height_mm, width_mm = phantom.spacing_mm
    _, rows, columns = phantom.voxels_DHW.shape
    header = patient_and_study(phantom, labels)
    header.update(equipment(labels))
    header.ManufacturerModelName = scanner.name
    header.SOPClassUID = CTImageStorage
    header.Modality = "CT"
    header.SeriesInstanceUID = labels.uid("CT series")
    header.SeriesNumber = 1
    header.SeriesDescription = f"{scanner.slice_mm:g} mm {scanner.kernel}"
    header.SeriesDate = header.AcquisitionDate = header.ContentDate = DATE
    header.SeriesTime = header.AcquisitionTime = header.ContentTime = TIME
    header.BodyPartExamined = "CHEST" if "nodule" in phantom.structures else "ABDOMEN"
    header.PatientPosition = "HFS"
    header.FrameOfReferenceUID = labels.uid("frame of reference")
    header.PositionReferenceIndicator = ""
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.QualityControlImage = "YES"  # DICOM's word for an image of a phantom
    header.BurnedInAnnotation = "NO"
    header.AcquisitionNumber = 1
    header.KVP = f"{scanner.kvp:g}"
    header.ConvolutionKernel = scanner.kernel
    header.GantryDetectorTilt = "0"
    header.SliceThickness = _decimal(scanner.slice_mm)
    header.SpacingBetweenSlices = _decimal(depth_mm)
    header.PixelSpacing = [_decimal(height_mm), _decimal(width_mm)]
    header.ReconstructionDiameter = _decimal(width_mm * columns)
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = rows, columns
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 0
    header.RescaleIntercept, header.RescaleSlope = str(INTERCEPT_HU), "1"
    header.RescaleType = "HU"
    header.WindowCenter, header.WindowWidth = "40", "400"
    return header


def _encoded(header: Dataset) -> Dataset:
    """Return a data set whose values are bytes already: thousands of slices share them."""
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    header.save_as(buffer)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def _header(phantom: Phantom, labels: Labels, *, index: int, number: int) -> Dataset:
    x, y, z = phantom.origin_mm
    position_mm = z + index * phantom.spacing_mm[0]
    header = Dataset()
    header.SOPInstanceUID = labels.uid(f"CT slice {index}")
    header.InstanceNumber = number
    header.ImagePositionPatient = [_decimal(x), _decimal(y), _decimal(position_mm)]
    header.SliceLocation = _decimal(position_mm)
    return header


def _file_meta(header: Dataset, transfer_syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax)
    return meta


def _compressor(export: Export, *, smallest: int) -> Callable[[Dataset], None]:
    syntax = UID(export.transfer_syntax)
    too_small = syntax == JPEG2000Lossless and smallest < _LEAST_JPEG_2000
    if not syntax.is_compressed:
        return lambda image: None

    def compress(image: Dataset) -> None:
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if not too_small:
            plugin = _ENCODERS[syntax]
            image.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)

    return compress


def _decimal(value: float) -> str:
    """Return a number as DICOM's decimal string: at most 16 characters."""
    return f"{value:.8g}"
