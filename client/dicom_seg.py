"""Masks as DICOM Segmentation objects that refer to the images they were drawn on.

Legend: K slices, R rows, C columns as a series is stored; N frames.

Source: DICOM PS3.3 A.51 (Segmentation IOD, written by highdicom); concepts are SNOMED CT's.
"""

import io
from collections.abc import Sequence
from importlib.metadata import version

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from fedward.client.data.damaged import damage_as
from fedward.client.data.dicom_stack import Stack
from fedward.client.data.volumes import Series
from fedward.common.errors import SiteDataError

Labels = npt.NDArray[np.uint8]

MAKER = "fedward"
SERIES_NUMBER = 300
"""Of the new series: beyond those that scanners give."""
_ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_TISSUE = Code("85756007", "SCT", "Tissue")
_LESION = (_ABNORMAL, Code("52988006", "SCT", "Lesion"))
_CALCULUS = (_ABNORMAL, Code("56381008", "SCT", "Calculus"))
_NEOPLASM = (_ABNORMAL, Code("108369006", "SCT", "Neoplasm"))
CONCEPTS = {
    "kidney": (_ANATOMY, Code("64033007", "SCT", "Kidney")),
    "stone": _CALCULUS,
    "calculus": _CALCULUS,
    "nodule": (_ABNORMAL, Code("27925004", "SCT", "Nodule")),
    "tumour": _NEOPLASM,
    "tumor": _NEOPLASM,
    "lesion": _LESION,
}
"""Category and type of a structure, by its name in a schema."""


def segmentation_bytes(
    labels_KRC: Labels,
    series: Series,
    structures: Sequence[str],
    *,
    lesion: str | None,
    algorithm: tuple[str, str],
) -> bytes:
    """Return a Segmentation of the labels, a segment per structure, as a file's content.

    Patient and study are those of the series. Slices that were interpolated have no image to refer
    to, and are left out.

    Args:
        labels_KRC: 0, or k for the k-th structure; some voxel is not 0.
        series: of DICOM.
        structures: their names; one of no known concept is coded as tissue, or as a lesion.
        lesion: which of them is the lesion.
        algorithm: name and version of the model.

    Raises:
        SiteDataError: the series lacks what a Segmentation has to refer to, such as its UIDs.
    """
    if series.stack is None:
        raise SiteDataError("the series was not made by scan_folder")
    _check_uids(series, series.stack)
    with damage_as("no DICOM Segmentation can refer to it"):
        images, frames_NRC = _frames(labels_KRC, series.stack)
        segmentation = Segmentation(
            source_images=images,
            pixel_array=frames_NRC,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _segment(number, name, algorithm, is_lesion=name == lesion)
                for number, name in enumerate(structures, start=1)
            ],
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=version(MAKER),
            device_serial_number="1",
            content_label="PREDICTION",
            content_description="Found by a model, not reviewed",
            series_description="Found by a model, not reviewed",
        )
        content = io.BytesIO()
        segmentation.save_as(content, enforce_file_format=True)
    return content.getvalue()


def concept_of(name: str, *, is_lesion: bool) -> tuple[Code, Code]:
    """Return category and type of a structure."""
    generic = _LESION if is_lesion else (_TISSUE, _TISSUE)
    return CONCEPTS.get(name.strip().casefold(), generic)


def _check_uids(series: Series, stack: Stack) -> None:
    uids = {
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.series_uid,
        "FrameOfReferenceUID": series.frame_uid,
        "SOPInstanceUID": all(one.sop_uid for one in stack.slices),
    }
    blank = [name for name, uid in uids.items() if not uid]
    if blank:
        raise SiteDataError(f"no DICOM Segmentation can refer to it: it lacks {', '.join(blank)}")


def _segment(
    number: int, name: str, algorithm: tuple[str, str], *, is_lesion: bool
) -> SegmentDescription:
    category, what = concept_of(name, is_lesion=is_lesion)
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=what,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm[0], version=algorithm[1], family=codes.DCM.ArtificialIntelligence
        ),
    )


def _frames(labels_KRC: Labels, stack: Stack) -> tuple[list[Dataset], Labels]:
    """Return the headers of the images, and the labels of each of their frames."""
    paths = list({one.path: None for one in stack.slices})
    images: list[Dataset] = [dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    if len(paths) == len(stack.slices):
        return images, labels_KRC[list(stack.slots)]
    if len(paths) > 1:
        raise SiteDataError("its frames are spread over several files")
    frames_NRC = np.zeros((stack.slices[0].num_frames, *labels_KRC.shape[1:]), dtype=np.uint8)
    for one, slot in zip(stack.slices, stack.slots, strict=True):
        frames_NRC[one.frame] = labels_KRC[slot]
    return images, frames_NRC
