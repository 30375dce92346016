"""What the files of a folder are: headers only, and no file ends the scan."""

import os
from dataclasses import replace
from pathlib import Path

from fedward.client.data.dicom_header import Slice, read_header
from fedward.client.data.dicom_stack import group_slices
from fedward.client.data.nifti_volume import SUFFIXES, pair_files
from fedward.client.data.volumes import MaskFile, Progress, Quarantined, Scan, Series
from fedward.common.errors import SiteDataError

# Tables and notes beside the images are no images that went missing.
DOCUMENTS = {".csv", ".json", ".txt", ".md", ".yaml", ".yml", ".parquet", ".html", ".pdf", ".npz"}


def scan_files(folder: Path, progress: Progress) -> Scan:
    """Return what `folder` holds; folders that are links are not entered."""
    # Not Path.rglob: where a name is too long for the file system, some versions of it raise.
    found_paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    paths = sorted(path for path in found_paths if _is_candidate(path, folder))
    nifti = [path for path in paths if path.name.lower().endswith(SUFFIXES)]
    others = sorted(set(paths) - set(nifti))
    slices: list[Slice] = []
    masks: list[MaskFile] = []
    quarantined: list[Quarantined] = []
    for done, path in enumerate(others, 1):
        parts = path.relative_to(folder).parts
        found = _read(path, parts[0] if len(parts) > 1 else "")
        if isinstance(found, Quarantined):
            quarantined.append(found)
        elif isinstance(found, MaskFile):
            masks.append(found)
        else:
            slices += found
        progress(done, len(paths))
    series, left_out = group_slices(slices)
    images, labels, unusable = pair_files(nifti, folder)
    progress(len(paths), len(paths))
    return _without_orphans(
        [*series, *images], [*masks, *labels], [*quarantined, *left_out, *unusable], folder
    )


def _is_candidate(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    document = path.suffix.lower() in DOCUMENTS or path.name.upper() == "DICOMDIR"
    # Not Path.is_file: it raises for what this user may not look at.
    return not hidden and not document and os.path.isfile(path)  # noqa: PTH113


def _read(path: Path, patient: str) -> tuple[Slice, ...] | MaskFile | Quarantined:
    try:
        return read_header(path, patient)
    except SiteDataError as error:
        return Quarantined(path, str(error), patient)


def _without_orphans(
    series: list[Series], masks: list[MaskFile], quarantined: list[Quarantined], folder: Path
) -> Scan:
    """Return the scan, masks without an image moved to the quarantine."""
    uids = {uid for one in series for uid in (one.series_uid, str(one.files[0]))} - {""}
    patients = {one.patient for one in series}
    in_folder: dict[str, list[Series]] = {}
    for one in series:
        in_folder.setdefault(one.files[0].relative_to(folder).parts[0], []).append(one)
    kept = []
    for mask in masks:
        first = mask.path.relative_to(folder).parts[0]
        beside = in_folder.get(first, [])
        own = [one for one in beside if one.patient == mask.patient]
        if mask.patient == first not in patients and len({one.patient for one in beside}) == 1:
            # A NIfTI mask in the folder of a DICOM series, which knows its patient's name.
            own = beside
        is_of_another = mask.kind == "nifti" and bool(mask.refers_to)
        if uids & set(mask.refers_to):
            kept.append(mask)
        elif own and not is_of_another:
            # Of these alone: one identifier may stand for the patients of all folders.
            files = (str(one.files[0]) for one in own)
            kept.append(replace(mask, patient=own[0].patient, refers_to=tuple(files)))
        elif mask.patient in patients and not is_of_another:
            kept.append(mask)
        else:
            reason = "a mask of an image that is not there"
            quarantined.append(Quarantined(mask.path, reason, mask.patient))
    quarantined.sort(key=lambda entry: entry.path)
    return Scan(tuple(series), tuple(kept), tuple(quarantined))
