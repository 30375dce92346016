"""The header of one DICOM file: the slices that it holds, or the mask that it is.

Whether a file can be used at all is decided here; how its slices make series, in `dicom_stack`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from fedward.client.data.damaged import damage_as
from fedward.client.data.volumes import MAX_VOXELS, MaskFile, Quarantined
from fedward.common.errors import SiteDataError

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
MASKS: dict[str, Literal["rtstruct", "seg"]] = {
    RTStructureSetStorage: "rtstruct",
    SegmentationStorage: "seg",
    LABEL_MAP_STORAGE: "seg",
}
IMAGES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# By what series are told apart that share a UID and a geometry.
TELLING = ("AcquisitionNumber", "SeriesNumber", "TemporalPositionIdentifier", "AcquisitionTime")
KEYWORDS = [
    *("SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "ImageType", "Manufacturer", "ManufacturerModelName"),
    *("ConvolutionKernel", "SliceThickness", "KVP", "InstanceNumber", *TELLING),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames"),
    *("RescaleIntercept", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence", "BurnedInAnnotation"),
]
TAGS: list[Any] = [Tag(keyword) for keyword in KEYWORDS]
# Reformatted and computed images: their voxels are not those of the scan.
COMPUTED = {"MIP", "MINIP", "MPR", "PROJECTION IMAGE", "VRT", "3D", "SUBTRACTION", "SCREENSHOT"}
SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"}
TEXT_VRS = {"CS", "DA", "DS", "IS", "LO", "SH", "TM", "UI"}
UNREADABLE = "its header cannot be read"
MAX_SKEW = 0.02
SEQUENCE_END = b"\xfe\xff\xdd\xe0"
TAIL_BYTES = 65_536


@dataclass(frozen=True, repr=False)
class Slice:
    """One axial image, or one frame of a file of many."""

    path: Path
    frame: int
    num_frames: int
    patient: str
    study_uid: str
    series_uid: str
    frame_uid: str
    sop_uid: str
    position_mm: tuple[float, ...]
    """x, y, z of the middle of its first pixel."""
    directions: tuple[float, ...]
    """Unit vectors along a row, then down a column."""
    spacing_mm: tuple[float, ...]
    """Between rows, then between columns."""
    size: tuple[int, int]
    """Rows, columns."""
    number: int
    telling: tuple[str, ...]
    """Values of `TELLING`."""
    facts: Mapping[str, str | float]


def read_header(path: Path, patient: str) -> tuple[Slice, ...] | MaskFile | Quarantined:
    """Return the slices in a file, or the mask that it is, or why it is of no use.

    Args:
        path: any file.
        patient: whose it is if it names none itself; "" if that is not known.

    Raises:
        SiteDataError: it is no DICOM file, or nobody's; the text is the reason.
    """
    with damage_as(UNREADABLE), path.open("rb") as file:
        _check_magic(file)
        dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=TAGS)
        named = text(dataset, "PatientID") or patient
        if not named:
            raise SiteDataError("names no patient, and lies in no folder of a patient")
        try:
            with damage_as(UNREADABLE):
                return _content(dataset, file, path, named)
        except SiteDataError as error:
            return Quarantined(path, str(error), named)


def _content(
    dataset: Dataset, file: BinaryIO, path: Path, patient: str
) -> tuple[Slice, ...] | MaskFile:
    kind = MASKS.get(text(dataset, "SOPClassUID"))
    if kind is not None:
        return MaskFile(path, kind, patient, _series_referred_to(dataset))
    _check_is_ct(dataset)
    _check_pixels(dataset, file, path.stat().st_size)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return _frames(dataset, path, patient)
    return (_slice(dataset, _plane(dataset, dataset, dataset), path, patient),)


def text(dataset: Dataset, keyword: str) -> str:
    """Return a value as text, parts separated by backslashes; "" where there is none."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    if element is None or element.value is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        is_text = dictionary_VR(keyword) in TEXT_VRS
        # Of ASCII without escapes, pydicom's conversion would take most of the time of a scan.
        if is_text and value.isascii() and b"\x1b" not in value:
            return "\\".join(part.strip(" \0") for part in value.decode("ascii").split("\\"))
        value = dataset[keyword].value
    parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
    return "\\".join(str(part).strip() for part in parts)


def _check_magic(file: BinaryIO) -> None:
    start = file.read(132)
    file.seek(0)
    if start[128:] == b"DICM":
        return
    # Without a preamble, a file starts with one of the first elements of group 2 or 8.
    group, element = struct.unpack("<HH", start[:4]) if len(start) == 132 else (0, 0)
    if group not in (2, 8) or element > 0x18:
        raise SiteDataError("neither DICOM nor NIfTI")


def _check_is_ct(dataset: Dataset) -> None:
    modality, sop_class = text(dataset, "Modality"), text(dataset, "SOPClassUID")
    if sop_class not in IMAGES:
        if modality not in ("CT", ""):
            raise SiteDataError(f"of another modality ({modality[:16]})")
        name = UID(sop_class).name if sop_class else "a file without SOP class"
        raise SiteDataError(f"no CT image but {name}")
    if modality != "CT":
        raise SiteDataError(f"of another modality ({modality[:16] or 'none is given'})")
    words = [word.strip().upper() for word in text(dataset, "ImageType").split("\\")]
    if SCOUTS & set(words):
        raise SiteDataError("a localizer (scout)")
    if words[0] == "DERIVED" and (words[1:2] != ["PRIMARY"] or COMPUTED & set(words)):
        raise SiteDataError(f"derived from other images ({', '.join(words)[:40]})")
    if COMPUTED & set(words[2:]):
        raise SiteDataError(f"a computed image ({', '.join(words)[:40]})")


def _check_pixels(dataset: Dataset, file: BinaryIO, num_bytes: int) -> None:
    """Refuse pixels of another kind, too many of them, or fewer than the header says."""
    colours = text(dataset, "PhotometricInterpretation")
    if colours != "MONOCHROME2":
        raise SiteDataError(f"PhotometricInterpretation is {colours or 'missing'}, not MONOCHROME2")
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    num_pixels = int(dataset.Rows) * int(dataset.Columns) * num_frames
    if not 0 < num_pixels <= MAX_VOXELS:
        raise SiteDataError(f"it has no pixels, or more than {MAX_VOXELS:,}")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and UID(syntax).is_deflated:
        return  # all of it was read, and its size says nothing
    left = num_bytes - file.tell()
    if left <= 8:
        raise SiteDataError("truncated: it ends before its pixels")
    if syntax is not None and UID(syntax).is_encapsulated:
        file.seek(-min(left, TAIL_BYTES), 2)
        if SEQUENCE_END not in file.read():
            raise SiteDataError("truncated: its compressed pixels have no end")
    else:
        share = left / (num_pixels * int(dataset.BitsAllocated) / 8)
        if share < 1:
            raise SiteDataError(f"truncated: it has {share:.0%} of its pixels")


def _frames(dataset: Dataset, path: Path, patient: str) -> tuple[Slice, ...]:
    """Return the frames of an enhanced CT; what all share stands beside what each has."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != int(dataset.get("NumberOfFrames") or 1):
        raise SiteDataError("its number of frames differs from that of their positions")
    slices = []
    for frame, own in enumerate(groups):
        kind = _group("CTImageFrameTypeSequence", own, shared)
        _refuse_frames(kind)
        plane = _plane(
            _group("PlanePositionSequence", own, shared),
            _group("PlaneOrientationSequence", own, shared),
            _group("PixelMeasuresSequence", own, shared),
        )
        slices.append(_slice(dataset, plane, path, patient, frame=frame))
    return tuple(slices)


def _refuse_frames(kind: Dataset) -> None:
    words = {word.strip().upper() for word in text(kind, "FrameType").split("\\")}
    if words & (SCOUTS | COMPUTED):
        raise SiteDataError("frames that are localizers or computed images")


def _group(keyword: str, own: Dataset, shared: Dataset) -> Dataset:
    """Return a functional group of a frame: its own, or what all frames share."""
    group = own.get(keyword) or shared.get(keyword)
    return group[0] if group else Dataset()


def _plane(place: Dataset, turn: Dataset, measures: Dataset) -> dict[str, tuple[float, ...]]:
    """Return where a slice lies.

    Raises:
        SiteDataError: part of it is missing or no number.
    """
    plane = {
        "position_mm": _numbers(place, "ImagePositionPatient", 3),
        "directions": _numbers(turn, "ImageOrientationPatient", 6),
        "spacing_mm": _numbers(measures, "PixelSpacing", 2),
    }
    across, down = np.array(plane["directions"]).reshape(2, 3)
    lengths = (across @ across, down @ down)
    if max(abs(across @ down), abs(lengths[0] - 1), abs(lengths[1] - 1)) > MAX_SKEW:
        raise SiteDataError("ImageOrientationPatient is no pair of perpendicular unit vectors")
    if min(plane["spacing_mm"]) <= 0:
        raise SiteDataError("PixelSpacing is not positive")
    return plane


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return a value of several decimals. pydicom's own conversion of them takes most of a scan."""
    if keyword not in dataset:
        raise SiteDataError(f"has no {keyword}")
    value: Any = dataset.get_item(Tag(keyword)).value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    try:
        numbers = tuple(float(part) for part in value or ())
    except (TypeError, ValueError):
        raise SiteDataError(f"{keyword} is no number") from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise SiteDataError(f"{keyword} is not {count} numbers")
    return numbers


def _slice(
    dataset: Dataset,
    plane: dict[str, tuple[float, ...]],
    path: Path,
    patient: str,
    *,
    frame: int = 0,
) -> Slice:
    return Slice(
        path=path,
        frame=frame,
        num_frames=int(dataset.get("NumberOfFrames") or 1),
        patient=patient,
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        frame_uid=text(dataset, "FrameOfReferenceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        size=(int(dataset.Rows), int(dataset.Columns)),
        number=int(text(dataset, "InstanceNumber") or 0) + frame,
        telling=tuple(text(dataset, keyword) for keyword in TELLING),
        facts=_facts(dataset),
        position_mm=plane["position_mm"],
        directions=plane["directions"],
        spacing_mm=plane["spacing_mm"],
    )


def _facts(dataset: Dataset) -> dict[str, str | float]:
    """Return what a figure may be grouped by: the scanner and its settings, nothing of a person."""
    facts: dict[str, str | float] = {
        "modality": text(dataset, "Modality"),
        "manufacturer": text(dataset, "Manufacturer"),
        "model": text(dataset, "ManufacturerModelName"),
        "kernel": text(dataset, "ConvolutionKernel"),
        "image_type": text(dataset, "ImageType"),
    }
    for name, keyword in (("slice_thickness_mm", "SliceThickness"), ("kvp", "KVP")):
        try:
            facts[name] = float(text(dataset, keyword))
        except ValueError:
            continue
    if text(dataset, "RescaleIntercept") == "" and "SharedFunctionalGroupsSequence" not in dataset:
        facts["rescale"] = "none"
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    facts["transfer_syntax"] = UID(syntax).name if syntax else "not given"
    return facts


def _series_referred_to(dataset: Dataset) -> tuple[str, ...]:
    referred = list(dataset.get("ReferencedSeriesSequence") or ())
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            referred += study.get("RTReferencedSeriesSequence") or ()
    uids = (text(series, "SeriesInstanceUID") for series in referred)
    return tuple(dict.fromkeys(uid for uid in uids if uid))
