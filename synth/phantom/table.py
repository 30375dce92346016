"""The clinical table of one site's phantoms."""

import csv
from collections.abc import Sequence
from pathlib import Path

from fedward.synth.phantom.case import Kind, Phantom, clinical_columns, label_column

TABLE = "patients.csv"


def table_row(patient: str, kind: Kind, phantom: Phantom) -> list[str]:
    """Return the patient's cells in the clinical table; an empty one is missing."""
    values = [_cell(phantom.clinical[column]) for column in clinical_columns(kind)]
    return [patient, *values, str(phantom.label)]


def write_table(path: Path, kind: Kind, rows: Sequence[Sequence[str]]) -> None:
    """Write the clinical table: patient, clinical columns, label.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient", *clinical_columns(kind), label_column(kind)])
        writer.writerows(rows)


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"
