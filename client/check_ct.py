"""Looks at a site's folder of scans, headers only, and at the clinical table beside it.

Three series are read to try. What is wrong inside the others comes out when a run first reads them,
or `fedward check --run`; the quarantine list in the site's cache names it then.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterator
from pathlib import Path

import numpy as np

from fedward.client.check_data import (
    AS_THE_SCHEMA_SAYS,
    check_exclusions,
    check_labels,
    check_values,
    shown,
)
from fedward.client.data.ct_cohort import read_clinic
from fedward.client.data.ct_rows import check_mask
from fedward.client.data.ct_source import first_folder, read_grid
from fedward.client.data.quarantine import in_short
from fedward.client.data.read import check_columns, read_frame, spelled, usable_rows
from fedward.client.data.source import need_ct_packages
from fedward.client.data.volumes import Scan, Series, masks_of, scan_folder
from fedward.client.findings import Finding
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import ImageSchema, TableSchema

MANY_UNUSED = 0.1
"""Share of series without a mask, or of files that are not used, that is worth a warning."""


def check_ct(
    site: LoadedSite, schema: TableSchema, excluded: Collection[str], k: int
) -> Iterator[Finding]:
    """Yield what the folder of scans and its clinical table come to.

    Args:
        site: whose `data.format` is `ct`.
        schema: the site's.
        excluded: patients who are never used.
        k: smallest count that is shown.
    """
    folder = site.file(site.config.data.path)
    cache = site.file(site.config.data.cache)
    try:
        need_ct_packages()
    except ConfigError as error:
        yield Finding("config.packages", "fail", str(error))
        return
    if cache.resolve().is_relative_to(folder.resolve()):
        text = f"data.cache: {cache} lies among the scans"
        yield Finding("config.cache", "fail", text, "move it out of data.path")
        return
    yield from check_folder(folder, schema, excluded=excluded, k=k)


def check_folder(
    folder: Path,
    schema: TableSchema,
    *,
    excluded: Collection[str] = (),
    scan: Scan | None = None,
    k: int,
) -> Iterator[Finding]:
    """Yield what a folder of scans and its clinical table come to.

    Args:
        folder: the site's.
        schema: what is expected of it.
        excluded: patients who are never used.
        scan: of the folder, if it was made already.
        k: smallest count that is shown.
    """
    if schema.image is None:
        text = f"schema {schema.name} has no section `image`, and these are scans"
        yield Finding("config.data", "fail", text, "name a schema for images")
        return
    if not folder.is_dir():
        yield Finding("data.scans", "fail", f"{folder}: there is no such folder", "see data.path")
        return
    in_table: frozenset[str] = frozenset()
    try:
        if schema.fields or schema.label is not None:
            in_table = yield from _clinic(folder, schema, excluded, k)
        scan = scan or scan_folder(folder, excluded=excluded)
    except (ConfigError, SiteDataError) as error:
        yield Finding("data.columns", "fail", str(error), AS_THE_SCHEMA_SAYS)
        return
    owners = {owner_of(series, folder, in_table) for series in scan.series}
    yield from check_scan(scan, owners, schema, in_table=in_table, k=k)
    if scan.series:
        yield _read_some(scan, schema.image)


def owner_of(series: Series, folder: Path, in_table: Collection[str]) -> str:
    """Return whose scan it is: as reading does, by its own patient or else by its folder."""
    own, by_folder = spelled(series.patient), spelled(first_folder(series.files[0], folder))
    return by_folder if own not in in_table and by_folder in in_table else own


def check_scan(
    scan: Scan,
    patients: Collection[str],
    schema: TableSchema,
    *,
    in_table: Collection[str] = (),
    k: int = 1,
) -> Iterator[Finding]:
    """Yield what a folder holds, and how it fits the clinical table.

    Args:
        scan: headers of the folder.
        patients: of its series, as `spelled` returns them.
        schema: what is expected.
        in_table: patients of the clinical table, as `spelled` returns them.
        k: smallest count that is shown.
    """
    count = len(patients)
    if not scan.series:
        advice = "does data.path lead to DICOM (CT Image Storage) or NIfTI files?"
        yield Finding("data.scans", "fail", "no series that can be used", advice)
    else:
        kinds = Counter(series.kind for series in scan.series)
        text = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        repaired = sum(bool(series.notes) for series in scan.series)
        yield Finding("data.scans", "ok", f"series: {text}; to be repaired on reading: {repaired}")
    if scan.quarantined:
        text = in_short(entry.reason for entry in scan.quarantined)
        yield Finding("data.quarantine", "warn", f"files that are not used: {text}")
    yield from _masks(scan, schema)
    if schema.fields or schema.label is not None:
        yield _joined(set(patients), in_table, k)
        count = len({*patients, *in_table}) if schema.fields else count
    if count < k:
        text = f"fewer patients than {k} (min_cohort)"
        yield Finding("data.patients", "fail", text, "take a longer period of time")
    else:
        yield Finding("data.patients", "ok", f"{count} patients")


def _clinic(
    folder: Path, schema: TableSchema, excluded: Collection[str], k: int
) -> Generator[Finding, None, frozenset[str]]:
    """Yield what the clinical table comes to, and return its patients."""
    assert schema.image is not None
    path = folder / schema.image.table
    if path.is_file():  # so that all that is wrong is said at once
        frame = read_frame(path)
        check_columns(frame, schema, str(path))
        if excluded:
            yield check_exclusions(frame, schema, excluded, k)
        yield from check_values(
            usable_rows(frame, schema, place=str(path), excluded=excluded), schema, str(path)
        )
    clinic = read_clinic(folder, schema, excluded=excluded)
    yield Finding("data.columns", "ok", f"{path.name}: all columns of schema {schema.name}")
    if clinic.ids:
        yield check_labels(clinic.table.label, schema, np.arange(len(clinic.ids)), k)
    return frozenset(spelled(one) for one in clinic.ids)


def _masks(scan: Scan, schema: TableSchema) -> Iterator[Finding]:
    assert schema.image is not None
    if not schema.image.structures or not scan.series:
        return
    without = sum(not masks_of(scan, series) for series in scan.series)
    text = f"series with a mask: {len(scan.series) - without} of {len(scan.series)}"
    if without > MANY_UNUSED * len(scan.series):
        advice = "masks are RTSTRUCT, SEG, or NAME_mask.nii.gz beside NAME.nii.gz"
        yield Finding("data.masks", "warn", text, advice)
    else:
        yield Finding("data.masks", "ok", text)


def _read_some(scan: Scan, schema: ImageSchema) -> Finding:
    """Return whether the first, middle and last series can be read, in the schema's unit."""
    places = {0, len(scan.series) // 2, len(scan.series) - 1}
    reasons = []
    for series in (scan.series[place] for place in sorted(places)):
        masks = masks_of(scan, series) if schema.structures else ()
        try:
            check_mask(read_grid(series, masks, schema), schema)
        except SiteDataError as error:
            reasons.append(str(error))
    if not reasons:
        text = f"series that were read to try: {len(places)}, all as the schema says"
        return Finding("data.voxels", "ok", text)
    text = f"of {len(places)} series that were read to try: {in_short(reasons)}"
    return Finding(
        "data.voxels",
        "fail" if len(reasons) == len(places) else "warn",
        text,
        "correct the export; a run leaves out such series, and the quarantine list names them",
    )


def _joined(patients: set[str], in_table: Collection[str], k: int) -> Finding:
    both = len(patients & set(in_table))
    text = (
        f"patients with scan and table: {shown(both, len(patients), k)}; "
        f"scan only: {shown(len(patients) - both, len(patients), k)}; "
        f"table only: {shown(len(in_table) - both, len(in_table), k)}"
    )
    if patients and in_table and not both:
        advice = "is the PatientID of the scans spelled as in the table?"
        return Finding("data.join", "fail", "no patient is in scans and table", advice)
    return Finding("data.join", "ok", text)
