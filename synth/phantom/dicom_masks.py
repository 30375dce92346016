"""The masks of a phantom as DICOM: a Segmentation object, or contours in an RT Structure Set.

Legend: D slices from feet to head, H rows from front to back, W columns from the patient's right to
the left; contours hold V points of x, y, z in millimetres (LPS).

Source: DICOM PS3.3 2024, A.51 (Segmentation IOD, written by highdicom) and A.19 (RT Structure Set).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from skimage.measure import find_contours

from fedward.synth.phantom.case import Phantom
from fedward.synth.phantom.dicom_writer import (
    DATE,
    MANUFACTURER,
    TIME,
    equipment,
    patient_and_study,
)
from fedward.synth.phantom.presets import Labels

_ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_CODES = {
    "kidney": (_ANATOMY, Code("64033007", "SCT", "Kidney")),
    "stone": (_ABNORMAL, Code("56381008", "SCT", "Calculus")),
    "nodule": (_ABNORMAL, Code("27925004", "SCT", "Nodule")),
}
_COLOURS = ((255, 160, 0), (0, 180, 255))


def write_segmentation(
    phantom: Phantom, path: Path, *, labels: Labels, images: Sequence[Dataset]
) -> None:
    """Write the masks as one binary Segmentation, a segment per structure.

    Args:
        phantom: its mask must have a voxel.
        path: of the file.
        labels: what the files of the patient share.
        images: headers of the slices, from feet to head.

    Raises:
        OSError: the file cannot be written.
    """
    segmentation = highdicom.seg.Segmentation(
        source_images=list(images),
        pixel_array=phantom.mask_DHW,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, name) for number, name in enumerate(phantom.structures, 1)
        ],
        series_instance_uid=labels.uid("SEG series"),
        series_number=2,
        sop_instance_uid=labels.uid("SEG"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=labels.software,
        device_serial_number="1",
        content_label="TRUTH",
        content_description="True extent of the structures of a phantom",
        series_description="Truth",
    )
    _make_reproducible(segmentation, labels)
    segmentation.save_as(path, enforce_file_format=True)


def _segment(number: int, name: str) -> highdicom.seg.SegmentDescription:
    category, what = _CODES[name]
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=what,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def _make_reproducible(segmentation: Dataset, labels: Labels) -> None:
    """Replace the times and random UIDs that highdicom filled in."""
    for name in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        if name in segmentation:
            setattr(segmentation, name, DATE)
    for name in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        if name in segmentation:
            setattr(segmentation, name, TIME)
    organization = labels.uid("SEG dimensions")
    for item in (
        *segmentation.DimensionOrganizationSequence,
        *segmentation.DimensionIndexSequence,
    ):
        item.DimensionOrganizationUID = organization
    for item in segmentation.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = DATE + TIME


def write_structure_set(
    phantom: Phantom, path: Path, *, labels: Labels, images: Sequence[Dataset]
) -> None:
    """Write the masks as contours: pixels whose centre is inside are the structure's.

    A hole is a contour within another, as planning systems write it: the region is what an odd
    number of contours enclose. `CLOSEDPLANAR_XOR` would say so, but many readers skip it.

    Args:
        phantom: its masks become contours on the slices.
        path: of the file.
        labels: what the files of the patient share.
        images: headers of the slices, from feet to head.

    Raises:
        OSError: the file cannot be written.
    """
    structures = patient_and_study(phantom, labels)
    structures.update(equipment(labels))
    structures.SOPClassUID = RTStructureSetStorage
    structures.SOPInstanceUID = labels.uid("RTSTRUCT")
    structures.Modality = "RTSTRUCT"
    structures.SeriesInstanceUID = labels.uid("RTSTRUCT series")
    structures.SeriesNumber = 2
    structures.SeriesDescription = "Truth"
    structures.OperatorsName = ""
    structures.InstanceNumber = 1
    structures.StructureSetLabel = "TRUTH"
    structures.StructureSetDate, structures.StructureSetTime = DATE, TIME
    structures.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    structures.PositionReferenceIndicator = ""
    structures.ApprovalStatus = "UNAPPROVED"
    structures.ReferencedFrameOfReferenceSequence = Items([_frame(images)])
    rois = list(enumerate(phantom.structures, 1))
    frame = images[0].FrameOfReferenceUID
    structures.StructureSetROISequence = Items([_roi(*roi, frame=frame) for roi in rois])
    structures.ROIContourSequence = Items(
        [_contours_of(phantom, number, images) for number, _ in rois]
    )
    structures.RTROIObservationsSequence = Items([_observation(number) for number, _ in rois])
    structures.file_meta = FileMetaDataset()
    structures.file_meta.MediaStorageSOPClassUID = structures.SOPClassUID
    structures.file_meta.MediaStorageSOPInstanceUID = structures.SOPInstanceUID
    structures.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    structures.save_as(path, enforce_file_format=True)


def _frame(images: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = Items([_reference(image) for image in images])
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # as PS3.3 C.8.8.5.4 asks
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = Items([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def _roi(number: int, name: str, *, frame: str) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frame
    roi.ROIName = name
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    return roi


def _observation(number: int) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = ""
    return observation


def _contours_of(phantom: Phantom, number: int, images: Sequence[Dataset]) -> Dataset:
    roi = Dataset()
    roi.ROIDisplayColor = list(_COLOURS[(number - 1) % len(_COLOURS)])
    roi.ReferencedROINumber = number
    contours = []
    for index, mask_HW in enumerate(phantom.mask_DHW == number):
        contours += [
            _contour(points_V3, images[index]) for points_V3 in _rings(phantom, index, mask_HW)
        ]
    if contours:
        roi.ContourSequence = Items(contours)
    return roi


def _contour(points_V3: NDArray[np.float64], image: Dataset) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = Items([_reference(image)])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points_V3)
    contour.ContourData = [f"{value:.4f}" for value in points_V3.ravel()]
    return contour


def _rings(
    phantom: Phantom, index: int, mask_HW: NDArray[np.bool_]
) -> Iterator[NDArray[np.float64]]:
    """Yield closed lines half-way between the centres of pixels inside and outside."""
    if not mask_HW.any():
        return
    x, y, z = phantom.origin_mm
    depth_mm, height_mm, width_mm = phantom.spacing_mm
    # A margin of one pixel, so that the line closes where the mask touches the border.
    for line_V2 in find_contours(  # type: ignore[no-untyped-call]
        np.pad(mask_HW, 1).astype(np.float64), 0.5
    ):
        row_V, column_V = line_V2[:-1].T - 1  # the last point repeats the first
        height_V = np.full(len(row_V), z + index * depth_mm)
        yield np.stack([x + column_V * width_mm, y + row_V * height_mm, height_V], axis=1)
