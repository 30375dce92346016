"""Predictions for scans of the hospital: masks, measurements and classes from a trained network.

Each series is taken on its own. Where the network draws masks, they come back on the grid that the
series is stored on, as NIfTI and as DICOM Segmentation, and what they mark is measured on the scan
itself. Task `ct-kidney`: the network draws the kidneys, and stones are found in them by their HU.

A network that classifies sees what it was trained on: the region round each lesion that was found
(its centre of mass in the middle), the slices that hold a structure, or the middle of the scan
where it draws no masks. A patient's probability is the mean over all of them. Nobody has reviewed
what is written, and the files say so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedward.client.clinical_rows import ClinicalRows
from fedward.client.data.quarantine import write_quarantine
from fedward.client.data.volumes import Quarantined, scan_folder
from fedward.client.model_file import TrainedModel
from fedward.client.scan_reader import MASKS, ScanReader
from fedward.client.scan_report import SeriesReport, calibration_of, patients_of, write_reports
from fedward.common.errors import ConfigError, SiteDataError, StorageError

Progress = Callable[[str, int, int], None]
"""Called with what is done ("files", "series"), how many are done and how many there are."""


@dataclass(frozen=True)
class ScanPrediction:
    """What was written, in numbers."""

    folder: Path
    num_patients: int
    num_series: int
    num_lesions: int
    num_segmentations: int
    num_quarantined: int
    """Files that were not used; `quarantine.csv` says why."""
    num_without: int | None
    """Patients without a probability; None for a network that does not classify."""


def predict_scans(  # noqa: PLR0913 - a model, scans, and how they are read
    model: TrainedModel,
    folder: Path,
    out: Path,
    *,
    run: Path | None = None,
    stone_hu: float | None = None,
    own_models: bool = False,
    progress: Progress | None = None,
) -> ScanPrediction:
    """Write masks, measurements and probabilities of each series in a folder; return how many.

    Under `out`: `masks/0001.nii.gz` and `masks/0001.dcm` of the first series and so on,
    `measurements.json` and `.csv`, `predictions.csv` where the network classifies, and
    `quarantine.csv` with each file that was not used and why. All are of mode 0600.

    Args:
        model: from `open_model` or `Models.load`, of a task with images.
        folder: DICOM or NIfTI in any arrangement, and the clinical table if there is one; without
            it, or for a patient who is not in it, the clinical fields count as missing.
        out: outside of `folder`.
        run: folder of the run that made the model, which knows its calibration.
        stone_hu: voxels from here on may be stone (`ct-kidney` only); None: 130.
        own_models: whether a network of the user's own may be imported.
        progress: told how far it is.

    Raises:
        ConfigError: model, folders and options do not fit together.
        SiteDataError: the clinical table is not what the schema promises, or no series at all
            could be used.
        StorageError: a file cannot be written.
    """
    reader = ScanReader.of(model, stone_hu=stone_hu, own_models=own_models)
    _check_places(folder, out)
    clinic = ClinicalRows.read(folder, model)
    tell = progress or (lambda what, done, total: None)
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--out: {out}: cannot be made ({error.strerror})") from None
    found, quarantined = _read_all(reader, clinic, folder, out, tell=tell)
    listed = write_quarantine(out, quarantined, root=folder)
    if not found:
        raise SiteDataError(f"{folder}: no series of images can be used; why: {listed}")
    classifies = "label" in reader.network.answers
    calibration = calibration_of(run) if classifies else None
    rows = len(clinic.ids)
    write_reports(out, found, model=model, calibration=calibration, num_table_rows=rows)
    patients = patients_of(found)
    without = sum(one.probability_C is None for one in patients)
    return ScanPrediction(
        folder=out,
        num_patients=len(patients),
        num_series=len(found),
        num_lesions=sum(len(one.lesions) for one in found),
        num_segmentations=sum("segmentation" in one.files for one in found),
        num_quarantined=len(quarantined),
        num_without=without if classifies else None,
    )


def _read_all(
    reader: ScanReader, clinic: ClinicalRows, folder: Path, out: Path, *, tell: Progress
) -> tuple[list[SeriesReport], list[Quarantined]]:
    """Return what was found in each series, of which the masks are written, and unused files."""
    scan = scan_folder(folder, progress=lambda done, total: tell("files", done, total))
    quarantined = list(scan.quarantined)
    found = []
    for number, series in enumerate(scan.series, start=1):
        try:
            found.append(reader.report(series, number, clinic=clinic, folder=folder, out=out))
        except (ConfigError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a file holds, it is one series
            quarantined += [Quarantined(path, _reason(error)) for path in series.files]
        tell("series", number, len(scan.series))
    return found, quarantined


def _check_places(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise SiteDataError(
            f"{folder}: there is no such folder; for a model of images, --input is a folder of "
            "DICOM or NIfTI"
        )
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--out: {out} lies among the scans; choose another folder")
    if (out / MASKS).is_dir() and any((out / MASKS).iterdir()):
        raise ConfigError(f"--out: {out} holds masks of another prediction; choose a new folder")


def _reason(error: Exception) -> str:
    """Return our own words, or the kind of error: other texts can quote a file."""
    if isinstance(error, SiteDataError):
        return str(error)
    return f"it cannot be predicted ({type(error).__name__})"
