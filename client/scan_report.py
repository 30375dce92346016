"""What was found in a folder of scans, as JSON and CSV for the hospital's own use.

All files are about patients: mode 0600. They name the patients, as the hospital needs them to.

Legend: N rows that were classified, C classes.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.client.clinical_rows import Owner
from fedward.client.data.volumes import Series, Volume
from fedward.client.measurements import Lesion
from fedward.client.model_file import TrainedModel
from fedward.client.predict import FILE_NAME
from fedward.common.errors import StorageError
from fedward.common.keys import write_private

JSON_NAME, CSV_NAME = "measurements.json", "measurements.csv"
AT_YOUR_SITE = "calibrate at your site before a probability is read as a risk"


@dataclass(frozen=True, repr=False)
class SeriesReport:
    """What was found in one series."""

    number: int
    """From 1; names its files."""
    series: Series
    owner: Owner
    volume_mm3: Mapping[str, float]
    """Of each structure's mask."""
    lesions: tuple[Lesion, ...]
    lesion_probability: tuple[npt.NDArray[np.float64] | None, ...]
    """(C,) of each lesion; None where it was not classified on its own."""
    probability_NC: npt.NDArray[np.float64]
    """Of all rows that were classified."""
    files: Mapping[str, str]
    """`mask` and `segmentation`, below the output folder."""
    grid: Mapping[str, Any]
    """Voxels and spacing."""
    notes: tuple[str, ...]
    has_table: bool


@dataclass(frozen=True, repr=False)
class PatientReport:
    """What was found in all series of one patient."""

    owner: Owner
    series: tuple[int, ...]
    probability_C: npt.NDArray[np.float64] | None
    """Mean over the rows of all series; None where nothing was classified."""


def patients_of(found: Sequence[SeriesReport]) -> list[PatientReport]:
    """Return the patients in the order of their first series."""
    by_patient: dict[str, list[SeriesReport]] = {}
    for one in found:
        by_patient.setdefault(one.owner.key, []).append(one)
    return [_patient(own) for own in by_patient.values()]


def calibration_of(run: Path | None) -> dict[str, Any]:
    """Return what is known of how well the probabilities of a model are calibrated.

    Args:
        run: folder of the run that made the model; None: the model came without it.

    Raises:
        StorageError: the run's summary is damaged.
    """
    unknown = {"known": False, "note": f"not known: {AT_YOUR_SITE}"}
    path = None if run is None else run / "summary.json"
    if path is None or not path.is_file():
        return unknown
    try:
        summary = json.loads(path.read_text("utf-8"))
        ece = summary["global"]["metrics"].get("ece")
        sites = {
            site: own["metrics"]["ece"]
            for site, own in summary["sites"].items()
            if "ece" in own["metrics"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: cannot be read ({type(error).__name__})") from None
    if ece is None or ece.get("value") is None:
        return unknown
    return {
        "known": True,
        "expected_calibration_error": ece,
        "sites": sites,
        "note": f"on the test patients of the run's own sites; elsewhere: {AT_YOUR_SITE}",
    }


def write_reports(
    out: Path,
    found: Sequence[SeriesReport],
    *,
    model: TrainedModel,
    calibration: Mapping[str, Any] | None,
    num_table_rows: int,
) -> None:
    """Write `measurements.json`, `measurements.csv` and, for a classifier, `predictions.csv`.

    Args:
        out: a folder.
        found: of each series that could be read.
        model: what found it.
        calibration: from `calibration_of`; None for a network that does not classify.
        num_table_rows: of the clinical table; 0 where there is none.

    Raises:
        StorageError: a file cannot be written.
    """
    facts = _facts(found, model, calibration)
    text = json.dumps(facts, indent=1, allow_nan=False, default=str) + "\n"
    write_private(out / JSON_NAME, text.encode())
    write_private(out / CSV_NAME, _measurement_table(found, model).encode())
    if calibration is not None:
        write_private(out / FILE_NAME, _prediction_table(found, model, num_table_rows).encode())


def grid_of(volume: Volume) -> dict[str, Any]:
    """Return size and spacing of a volume."""
    return {"size": list(volume.voxels_DHW.shape), "spacing_mm": list(volume.spacing_mm)}


def _patient(own: list[SeriesReport]) -> PatientReport:
    probability_NC = np.concatenate([one.probability_NC for one in own])
    return PatientReport(
        own[0].owner,
        tuple(one.number for one in own),
        probability_NC.mean(axis=0) if len(probability_NC) else None,
    )


def _facts(
    found: Sequence[SeriesReport], model: TrainedModel, calibration: Mapping[str, Any] | None
) -> dict[str, Any]:
    classes = model.schema.class_names
    return {
        "fedward": version("fedward"),
        "model": {
            "name": model.name,
            "round": model.round,
            "network": model.config.model.name,
            "task": model.config.task,
        },
        "reviewed": False,
        "calibration": calibration,
        "patients": [
            {
                "patient": one.owner.patient,
                "series": list(one.series),
                "probability": _named(classes, one.probability_C),
            }
            for one in patients_of(found)
        ],
        "series": [_series(one, model) for one in found],
    }


def _series(one: SeriesReport, model: TrainedModel) -> dict[str, Any]:
    classes = model.schema.class_names
    mean_C = one.probability_NC.mean(axis=0) if len(one.probability_NC) else None
    return {
        "series": one.number,
        "patient": one.owner.patient,
        "study_uid": one.series.study_uid,
        "series_uid": one.series.series_uid,
        "kind": one.series.kind,
        **one.grid,
        "files": dict(one.files),
        "notes": [*one.series.notes, *one.notes],
        "clinical_fields": one.has_table,
        "structures": [
            {"structure": name, "volume_mm3": volume} for name, volume in one.volume_mm3.items()
        ],
        "lesions": [
            {
                "lesion": number,
                **_values(lesion, model),
                "probability": _named(classes, probability_C),
            }
            for number, (lesion, probability_C) in enumerate(
                zip(one.lesions, one.lesion_probability, strict=True), start=1
            )
        ],
        "probability": _named(classes, mean_C),
    }


def _values(lesion: Lesion, model: TrainedModel) -> dict[str, Any]:
    """Return a lesion's figures; densities are named by the unit of the images."""
    assert model.schema.image is not None
    values = asdict(lesion)
    unit = model.schema.image.unit.lower()
    for name in ("mean", "max"):
        values[f"{name}_{unit}"] = values.pop(f"{name}_hu")
    x, y, z = values.pop("centre_mm")
    return values | {"centre_x_mm": x, "centre_y_mm": y, "centre_z_mm": z}


def _named(
    classes: Sequence[str], probability_C: npt.NDArray[np.float64] | None
) -> dict[str, float] | None:
    if probability_C is None:
        return None
    return dict(zip(classes, probability_C.tolist(), strict=True))


def _measurement_table(found: Sequence[SeriesReport], model: TrainedModel) -> str:
    """Return a row per lesion."""
    assert model.schema.image is not None
    unit = model.schema.image.unit.lower()
    figures = [
        *("structure", "side", "diameter_mm", "volume_mm3", f"mean_{unit}", f"max_{unit}"),
        *("centre_x_mm", "centre_y_mm", "centre_z_mm", "method"),
    ]
    classes = [f"probability_{name}" for name in model.schema.class_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_patient_column(model), "series", "series_uid", "lesion", *figures, *classes])
    for one in found:
        place = [one.owner.patient, one.number, one.series.series_uid]
        lesions = zip(one.lesions, one.lesion_probability, strict=True)
        for number, (lesion, probability_C) in enumerate(lesions, start=1):
            values = _values(lesion, model)
            shown = [_cell(values[name]) for name in figures]
            writer.writerow([*place, number, *shown, *_cells(probability_C, len(classes))])
    return text.getvalue()


def _prediction_table(
    found: Sequence[SeriesReport], model: TrainedModel, num_table_rows: int
) -> str:
    """Return a row per patient; numbered as in the clinical table, those who are not there last."""
    patients = patients_of(found)
    classes = [f"probability_{name}" for name in model.schema.class_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", _patient_column(model), "series", *classes])
    beyond = count(num_table_rows)
    listed = sorted(patients, key=lambda one: (one.owner.row is None, one.owner.row or 0))
    for one in listed:
        row = next(beyond) if one.owner.row is None else one.owner.row
        numbers = " ".join(map(str, one.series))
        probability = _cells(one.probability_C, len(classes))
        writer.writerow([row + 1, one.owner.patient, numbers, *probability])
    return text.getvalue()


def _patient_column(model: TrainedModel) -> str:
    return model.schema.patient_id or "patient"


def _cells(probability_C: npt.NDArray[np.float64] | None, num_classes: int) -> list[Any]:
    return [""] * num_classes if probability_C is None else probability_C.tolist()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else value
