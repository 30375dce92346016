"""Joins scans with the clinical table of the same patients, row by row.

A patient who is only in the table, or only in the scans, has rows too: flags say what each row has.
Who is dropped or excluded is so with table and scans. A patient's identifier is spelled as in the
exclusion list: 7, 7.0 and "07" are one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.data.ct_cache import Case
from fedward.client.data.ct_rows import CaseRows, kept_rows
from fedward.client.data.read import (
    check_columns,
    read_frame,
    spelled,
    table_from_frame,
    usable_rows,
)
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.rows import (
    HAS,
    IMAGE,
    MASK,
    MODALITIES,
    ORIGINAL_SIZE,
    ORIGINAL_SPACING_MM,
    SIGNS,
    SPACING_MM,
)
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.table import Table

NOTHING_TO_LEARN = "neither a label nor a mask: there is nothing to learn from it"


@dataclass(frozen=True, repr=False)
class Clinic:
    """The clinical table of a site, one row per patient.

    Args:
        table: (M,) rows.
        ids: (M,) whose they are, as the file spells them.
        gone: patients of the file whom the schema drops, as `spelled` returns them.
    """

    table: Table
    ids: tuple[Any, ...]
    gone: frozenset[str]


@dataclass(frozen=True, repr=False)
class Cohort:
    """The rows of a site, and whose they are.

    Args:
        table: the rows, with arrays.
        patients: each patient's identifier once, as table or scans spell it.
        left_out: scans that nothing can be learned from.
    """

    table: Table
    patients: tuple[Any, ...]
    left_out: tuple[Case, ...]


@dataclass(frozen=True, repr=False)
class _Part:
    """Some rows of one patient: of one scan, or the one row of a patient without any."""

    patient: int
    clinic_row: int
    """-1 where the patient is not in the table."""
    case: Case | None
    rows: npt.NDArray[np.int64]


def read_clinic(folder: Path, schema: TableSchema, *, excluded: Collection[Any] = ()) -> Clinic:
    """Return the clinical table that lies beside the scans; empty where the schema needs none.

    Raises:
        ConfigError: the schema names no patient_id, so that nothing can be joined.
        SiteDataError: there is no such file, it does not hold what the schema promises, or a
            patient has two rows.
    """
    assert schema.image is not None
    if not schema.fields and schema.label is None:
        return Clinic(_empty_table(schema), (), frozenset())
    if schema.patient_id is None:
        raise ConfigError(
            f"data.schema: {schema.name} names no patient_id; scans and table are joined by it"
        )
    path = folder / schema.image.table
    if not path.is_file():
        raise SiteDataError(
            f"{path}: there is no such file; scans are joined with this table by "
            f"{schema.patient_id!r} (a site without clinical data writes the header only)"
        )
    frame = read_frame(path)
    check_columns(frame, schema, str(path))
    ids = frame[schema.patient_id]
    nameless = int(ids.isna().sum())
    if nameless:
        raise SiteDataError(f"{path}: column {schema.patient_id!r}: {nameless} rows have none")
    twice = int(pd.Series([spelled(one) for one in ids]).duplicated().sum())
    if twice:
        raise SiteDataError(
            f"{path}: column {schema.patient_id!r}: {twice} rows are of a patient who has one "
            "already; scans need one row per patient"
        )
    usable = usable_rows(frame, schema, place=str(path), excluded=excluded)
    kept = tuple(usable[schema.patient_id])
    gone = {spelled(one) for one in ids} - {spelled(one) for one in kept}
    if not kept:
        return Clinic(_empty_table(schema), (), frozenset(gone))
    # Whether there are enough patients is asked when the scans are counted too.
    anyone = schema.model_copy(update={"min_cohort": 1})
    return Clinic(table_from_frame(usable, anyone, place=str(path)), kept, frozenset(gone))


def cohort_of(  # noqa: PLR0913 - scans, table, and how they meet
    cases: Sequence[Case],
    clinic: Clinic,
    schema: TableSchema,
    image: ImageConfig,
    *,
    place: str,
    load: Callable[[str], CaseRows],
) -> Cohort:
    """Return the rows of a site with their images.

    Args:
        cases: the site's scans.
        clinic: the site's table.
        schema: what its columns mean.
        image: how many rows of a patient are used, and of what size.
        place: folder or site, for messages.
        load: returns the rows of a case by its name.

    Raises:
        SiteDataError: scans and table have no patient in common, or there are too few patients.
    """
    parts, patients, left_out = _join(cases, clinic, schema, image, place=place)
    count = sum(len(part.rows) for part in parts)
    arrays: dict[str, npt.NDArray[Any]] = {
        IMAGE: np.zeros((count, *image.size), dtype=np.int16),
        MASK: np.zeros((count, *image.size), dtype=np.uint8),
        SPACING_MM: np.full((count, 3), np.nan, dtype=np.float32),
        ORIGINAL_SIZE: np.zeros((count, 3), dtype=np.int32),
        ORIGINAL_SPACING_MM: np.full((count, 3), np.nan, dtype=np.float32),
        **{HAS + name: np.zeros(count, dtype=bool) for name in MODALITIES},
    }
    clinic_row = np.concatenate([np.full(len(part.rows), part.clinic_row) for part in parts])
    patient = np.concatenate([np.full(len(part.rows), part.patient) for part in parts])
    start = 0
    for part in parts:
        here = slice(start, start + len(part.rows))
        start = here.stop
        if part.case is None:
            continue
        rows = load(part.case.name)
        arrays[IMAGE][here] = rows.image_NS[part.rows]
        arrays[MASK][here] = rows.mask_NS[part.rows]
        arrays[SPACING_MM][here] = rows.spacing_mm
        arrays[ORIGINAL_SIZE][here] = rows.scan_size
        arrays[ORIGINAL_SPACING_MM][here] = rows.scan_spacing_mm
        arrays[HAS + "image"][here] = True
        arrays[HAS + "mask"][here] = rows.has_mask
    in_table = clinic_row >= 0
    arrays[HAS + "table"] = in_table & bool(schema.fields)
    arrays[HAS + "label"] = in_table & (schema.label is not None)
    return Cohort(_with_rows(clinic.table, clinic_row, patient, arrays), patients, left_out)


def _join(
    cases: Sequence[Case],
    clinic: Clinic,
    schema: TableSchema,
    image: ImageConfig,
    *,
    place: str,
) -> tuple[list[_Part], tuple[Any, ...], tuple[Case, ...]]:
    """Return which rows there are, the patients' identifiers, and scans of no use.

    A patient is known by the scan's own identifier, or by its folder where the table has only that.

    Raises:
        SiteDataError: scans and table have no patient in common, or there are too few.
    """
    row_of = {spelled(one): row for row, one in enumerate(clinic.ids)}
    cases = [case for case in cases if not case.is_of(clinic.gone)]
    owner = [_owner(case, row_of) for case in cases]
    if cases and row_of and not any(key in row_of for key in owner):
        raise SiteDataError(
            f"{place}: none of the patients of the scans is in the clinical table; are their ids "
            "spelled alike? (PatientID of DICOM, or the first folder below)"
        )
    useful: dict[str, list[Case]] = {}
    left_out = []
    for case, key in zip(cases, owner, strict=True):
        has_label = schema.label is not None and key in row_of
        if has_label or case.has_mask:
            useful.setdefault(key, []).append(case)
        else:
            left_out.append(case)
    keys = sorted(set(useful) | (set(row_of) if schema.fields else set()))
    schema.check_cohort(len(keys), place=place)
    parts = [
        part
        for number, key in enumerate(keys)
        for part in _parts(number, row_of.get(key, -1), useful.get(key, []), image)
    ]
    ids = tuple(
        clinic.ids[row_of[key]] if key in row_of else _named(useful[key][0]) for key in keys
    )
    return parts, ids, tuple(left_out)


def _owner(case: Case, row_of: dict[str, int]) -> str:
    """Return whose scan it is: by its own patient, or by its folder where only that is known."""
    by_folder = spelled(case.folder)
    own = spelled(_named(case))
    return by_folder if own not in row_of and case.folder and by_folder in row_of else own


def _named(case: Case) -> str:
    return case.patient or case.folder


def _parts(patient: int, clinic_row: int, cases: list[Case], image: ImageConfig) -> list[_Part]:
    """Return the rows of one patient that are used."""
    if not cases:
        return [_Part(patient, clinic_row, None, np.zeros(1, dtype=np.int64))]
    all_rows = [(case, row) for case in cases for row in range(len(case.weights))]
    weight = np.array([case.weights[row] for case, row in all_rows], dtype=np.int64)
    kept = [all_rows[one] for one in kept_rows(weight, image)]
    return [
        _Part(patient, clinic_row, case, np.array([row for _, row in some], dtype=np.int64))
        for _, group in groupby(kept, key=lambda pair: pair[0].name)
        for some in [list(group)]
        for case in [some[0][0]]
    ]


def _with_rows(
    clinic: Table,
    clinic_row: npt.NDArray[np.int64],
    patient: npt.NDArray[np.int64],
    arrays: dict[str, npt.NDArray[Any]],
) -> Table:
    """Return rows of the clinical table, one of which (-1) is of nobody: all is missing there."""
    return Table(
        {name: np.append(column, np.nan)[clinic_row] for name, column in clinic.columns.items()},
        np.append(clinic.label, 0)[clinic_row],
        patient.astype(np.int64),
        {name: np.append(member, False)[clinic_row] for name, member in clinic.subgroups.items()},
        arrays=arrays
        | {name: _or_nobody(array)[clinic_row] for name, array in clinic.arrays.items()},
    )


def _or_nobody(signs_NS: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return the signs, and a last row that says that nobody looked."""
    return np.concatenate([signs_NS, np.full((1, signs_NS.shape[1]), -1, dtype=np.int8)])


def _empty_table(schema: TableSchema) -> Table:
    nobody = np.zeros(0, dtype=np.int64)
    return Table(
        {field.name: np.zeros(0) for field in schema.fields},
        nobody,
        nobody,
        {rule.name: np.zeros(0, dtype=bool) for rule in schema.subgroups},
        arrays={SIGNS: np.zeros((0, len(schema.signs)), dtype=np.int8)} if schema.signs else {},
    )
