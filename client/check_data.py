"""Looks at a site's data as a run would, and says all that is wrong at once.

Counts are for the site's own people, who send them on when they ask for help: cells of fewer
patients than `min_cohort` are not shown, nor any that would follow from the total.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.data.read import (
    check_columns,
    column_of,
    label_of,
    patient_numbers,
    read_frame,
    usable_rows,
)
from fedward.client.data.source import ARRAYS, read_excluded
from fedward.client.findings import Finding
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import TableSchema, load_schema

MANY_MISSING = 0.5
"""Share of missing values of a feature that is worth a warning."""
AS_THE_SCHEMA_SAYS = "correct the export, or the schema if all sites agree"


def check_data(site: LoadedSite) -> Iterator[Finding]:
    """Yield what the site's file, schema and exclusion list come to."""
    config = site.config
    try:
        schema = load_schema(config.data.schema_name, site.path.parent)
        excluded = read_excluded(site)
    except ConfigError as error:
        yield Finding("config.data", "fail", str(error), "correct site.yaml")
        return
    path = site.file(config.data.path)
    k = max(config.min_cohort, schema.min_cohort)
    if config.data.format == "ct":
        from fedward.client.check_ct import check_ct  # the scans' packages are not always there

        yield from check_ct(site, schema, excluded, k)
        return
    try:
        frame = read_rows(path, schema)
        check_columns(frame, schema, str(path))
        usable = usable_rows(frame, schema, place=str(path), excluded=excluded)
    except (ConfigError, SiteDataError) as error:
        yield Finding("data.columns", "fail", str(error), AS_THE_SCHEMA_SAYS)
        return
    yield Finding("data.columns", "ok", f"{path.name}: all columns of schema {schema.name}")
    if excluded:
        yield check_exclusions(frame, schema, excluded, k)
    yield from check_values(usable, schema, str(path))
    yield from _patients(usable, schema, str(path), k)
    if schema.patient_id is None:
        yield Finding(
            "data.patient-id",
            "warn",
            "the schema names no patient_id: every row counts as a patient",
            "with a column of patient ids, a patient who withdraws can be excluded, and told which "
            "runs used them",
        )


def read_rows(path: Path, schema: TableSchema) -> pd.DataFrame:
    """Return the columns of a table, or those beside the images of an `.npz` file.

    Raises:
        ConfigError: there are images, and the schema has none.
        SiteDataError: the file cannot be read.
    """
    if path.suffix != ARRAYS:
        return read_frame(path)
    from fedward.client.data.array_source import read_arrays  # SciPy and more; tables need none

    return read_arrays(path, schema)[0]


def shown(count: int, total: int, k: int) -> str:
    """Return a count for people: exact, or a bound where it or the rest are fewer than `k`."""
    if 0 < count < k:
        return f"fewer than {k}"
    if 0 < total - count < k:
        return f"all but fewer than {k}"
    return str(count)


def shown_cells(counts: Mapping[str, int], k: int) -> dict[str, str]:
    """Return the cells of one partition as they may be shown beside their total.

    A single cell that is withheld would follow from the total: the next smallest goes with it.
    """
    withheld = {name for name, count in counts.items() if count < k}
    if len(withheld) == 1 and len(counts) > 1:
        others = {name: count for name, count in counts.items() if name not in withheld}
        withheld.add(min(others, key=lambda name: others[name]))
    return {name: "-" if name in withheld else str(count) for name, count in counts.items()}


def check_exclusions(
    frame: pd.DataFrame, schema: TableSchema, excluded: Collection[str], k: int
) -> Finding:
    """Return how many patients of the exclusion list the table has."""
    column = schema.patient_id
    assert column is not None  # usable_rows has refused a list without one
    place = "exclusion list"
    kept = usable_rows(
        frame, schema.model_copy(update={"drop": ()}), place=place, excluded=excluded
    )
    total = int(frame[column].nunique())
    gone = total - int(kept[column].nunique())
    text = f"{len(excluded)} ids on the list, {shown(gone, total, k)} of them in the file, left out"
    if gone == 0:
        advice = f"do the ids look like those in column {column!r}?"
        return Finding("data.exclude", "warn", text, advice)
    return Finding("data.exclude", "ok", text)


def check_values(frame: pd.DataFrame, schema: TableSchema, place: str) -> Iterator[Finding]:
    """Yield what is wrong in any column, then which are mostly missing."""
    failed = False
    mostly_missing = []
    for field in schema.fields:
        try:
            values = column_of(frame[field.name], field, place)
        except SiteDataError as error:
            failed = True
            yield Finding("data.values", "fail", str(error), AS_THE_SCHEMA_SAYS)
            continue
        if len(values) and np.isnan(values).mean() > MANY_MISSING:
            mostly_missing.append(f"{field.name} {np.isnan(values).mean():.0%}")
    if not failed:
        yield Finding("data.values", "ok", f"{len(schema.fields)} features, all within the schema")
    if mostly_missing:
        text = f"mostly missing: {', '.join(mostly_missing)}"
        yield Finding("data.missing", "warn", text, "is it exported under another name or code?")


def _patients(frame: pd.DataFrame, schema: TableSchema, place: str, k: int) -> Iterator[Finding]:
    """Yield whether there are enough patients, and of which classes."""
    try:
        patients = patient_numbers(frame, schema, place)
        num_patients = len(np.unique(patients))
        schema.check_cohort(num_patients, place=place)
    except SiteDataError as error:
        yield Finding("data.patients", "fail", str(error), "take a longer period of time")
        return
    if num_patients < k:
        text = f"fewer patients than min_cohort: {k} in site.yaml"
        yield Finding("data.patients", "fail", text, "take a longer period of time")
        return
    yield Finding("data.patients", "ok", f"{num_patients} patients, {len(frame)} rows")
    try:
        label = label_of(frame, schema, place)
    except SiteDataError as error:
        yield Finding("data.labels", "fail", str(error), AS_THE_SCHEMA_SAYS)
    else:
        yield check_labels(label, schema, patients, k)


def check_labels(
    label: npt.NDArray[np.int64], schema: TableSchema, patients: npt.NDArray[np.int64], k: int
) -> Finding:
    """Return how many patients there are of each class.

    Args:
        label: (N,) class of each row.
        schema: names the classes.
        patients: (N,) whose row it is.
        k: smallest count that is shown.
    """
    if schema.label is None:
        return Finding("data.labels", "ok", "the schema predicts masks, and no label")
    owners = np.unique(patients, return_inverse=True)[1]
    highest = np.zeros(int(owners.max()) + 1, dtype=np.int64)
    np.maximum.at(highest, owners, label)
    counts = {
        name: int((highest == number).sum()) for number, name in enumerate(schema.class_names)
    }
    text = ", ".join(f"{name} {count}" for name, count in shown_cells(counts, k).items())
    if absent := [name for name, count in counts.items() if count == 0]:
        advice = "such figures as AUROC are undefined here; is the label exported as agreed?"
        return Finding("data.labels", "warn", f"no patient is {', '.join(absent)}", advice)
    if "-" in shown_cells(counts, k).values():
        return Finding(
            "data.labels",
            "warn",
            f"patients per class: {text} (-: not shown, as a class has fewer than {k})",
            "figures of so few patients are withheld, and local test figures will be wide",
        )
    return Finding("data.labels", "ok", f"patients per class: {text}")
