"""A hospital's folder of scans, with a clinical table beside it, as the source of its rows.

Scan by scan: read, joined with its mask, resampled, cut into rows, cached. A scan that cannot be
used is put on the quarantine list with the reason, and never ends a run.
"""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedward.client.data.ct_cache import Case, CtCache, Index
from fedward.client.data.ct_cohort import NOTHING_TO_LEARN, Cohort, cohort_of, read_clinic
from fedward.client.data.ct_rows import CaseRows, Grid, check_size, rows_of
from fedward.client.data.quarantine import in_short, relative, write_quarantine
from fedward.client.data.read import TABLE_SUFFIXES, spelled
from fedward.client.data.source import need_ct_packages
from fedward.client.data.volumes import (
    MaskFile,
    Progress,
    Quarantined,
    Scan,
    Series,
    check_hu,
    load_mask,
    load_volume,
    masks_of,
    scan_folder,
)
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError, StorageError
from fedward.common.tables.schema import ImageSchema, TableSchema
from fedward.common.tables.table import Table

MEANING_OF_MASKS = {"unit", "structures", "aliases", "lesion"}
"""Keys of the schema that shape rows."""
ROWS_OF_IMAGE = {"size", "rows", "spacing_mm", "min_lesion_voxels", "max_rows_per_patient"}
"""Keys of the run that shape rows; the others are applied when a batch is made."""
log = logging.getLogger("fedward.ct")


@dataclass(frozen=True, repr=False)
class _Reading:
    """What one pass over the scans came to."""

    cases: list[Case]
    quarantined: list[Quarantined]


class CtSource:
    """Reads one folder of scans once. It has no repr: it leads to patients.

    Args:
        site_id: whose folder it is.
        folder: DICOM or NIfTI in any arrangement, and the clinical table that the schema names.
        schema: what the table's columns mean, and what masks hold.
        image: how the run wants its images.
        cache: a folder of the site's own disk, outside `folder`.
        excluded: patient ids that are never used.
        salt: keys the names of cached files; None: a key of the cache's own.
        progress: told how far the scan is, in files and then in series.
    """

    def __init__(  # noqa: PLR0913 - a place, and how it is read
        self,
        site_id: str,
        folder: Path,
        schema: TableSchema,
        image: ImageConfig,
        *,
        cache: Path,
        excluded: Collection[Any] = (),
        salt: bytes | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.site_id = site_id
        self._folder = folder
        self._schema = schema
        self._image = image
        self._cache = CtCache(cache, salt=salt)
        self._excluded = frozenset(spelled(patient) for patient in excluded)
        self._progress = progress

    def read(self) -> Table:
        """Return the site's rows with their images, checked against the schema.

        Raises:
            ConfigError: schema, run and site do not fit together.
            SiteDataError: too few patients are left, or the clinical table is not what the schema
                promises.
            StorageError: the cache cannot be used.
        """
        return self._cohort.table

    def patient_ids(self) -> list[Any]:
        """Return the identifier of each usable patient once, as table or scan spells it."""
        return list(self._cohort.patients)

    @cached_property
    def _cohort(self) -> Cohort:
        need_ct_packages()
        schema = _image_schema(self._schema)
        check_size(self._image)
        if not self._folder.is_dir():
            raise SiteDataError(f"{self._folder}: there is no such folder of scans")
        if self._cache.folder.resolve().is_relative_to(self._folder.resolve()):
            raise ConfigError(f"data.cache: {self._cache.folder} lies among the scans; move it")
        # The table first: it is quick, and most mistakes are there.
        clinic = read_clinic(self._folder, self._schema, excluded=self._excluded)
        with self._cache.locked():
            index = self._index(schema)
            listed = self._write_quarantine(index, ())
            if index.quarantined and not index.cases:
                # Patients without scans are legitimate, but not because none could be read.
                raise SiteDataError(
                    f"{self._folder}: no scan can be used: "
                    f"{in_short(reason for _, reason in index.quarantined)}; why each: {listed}"
                )
            if index.quarantined:
                log.warning("%s: some files are not used; why: %s", self.site_id, listed)
            try:
                cohort = cohort_of(
                    index.cases,
                    clinic,
                    self._schema,
                    self._image,
                    place=str(self._folder),
                    load=self._load,
                )
            except SiteDataError as error:
                if not index.quarantined:
                    raise
                raise type(error)(f"{error}; which files are not used, and why: {listed}") from None
            self._write_quarantine(index, cohort.left_out)
        return cohort

    def _index(self, schema: ImageSchema) -> Index:
        """Return the scans of the folder, from the cache or read anew."""
        shape = {
            **schema.model_dump(mode="json", include=MEANING_OF_MASKS),
            **self._image.model_dump(mode="json", include=ROWS_OF_IMAGE),
        }
        asked = self._cache.name_of("asked", str(self._folder.resolve()), shape)
        excluded = self._cache.name_of("excluded", sorted(self._excluded))
        self._cache.forget(self._excluded, excluded)
        name = self._cache.name_of("index", asked, excluded, list(_listing(self._folder, schema)))
        found = self._cache.load_index(name)
        if found is not None:
            return found
        scan = scan_folder(self._folder, excluded=self._excluded, progress=self._progress)
        reading = self._read_scan(scan, schema, shape)
        index = Index(
            asked,
            excluded,
            tuple(reading.cases),
            tuple((relative(one.path, self._folder), one.reason) for one in reading.quarantined),
        )
        self._cache.keep_index(name, index)
        log.info(
            "%s: scans used: %d; files not used: %d", self.site_id, len(index.cases),
            len(index.quarantined),
        )  # fmt: skip
        return index

    def _read_scan(self, scan: Scan, schema: ImageSchema, shape: dict[str, Any]) -> _Reading:
        """Put the rows of each series into the cache, and name those that have none."""
        reading = _Reading([], list(scan.quarantined))
        used: set[Path] = set()
        for number, series in enumerate(scan.series, start=1):
            folder = first_folder(series.files[0], self._folder)
            if {spelled(series.patient), spelled(folder)} & self._excluded:
                continue
            masks = masks_of(scan, series) if schema.structures else ()
            used |= {mask.path for mask in masks}
            files = [*series.files, *(mask.path for mask in masks)]
            try:
                states = [_state(path, self._folder) for path in files]
                frames = series.stack and [one.frame for one in series.stack.slices]
                name = self._cache.name_of("rows", shape, states, frames)
                rows = self._cache.load_rows(name)
                if rows is None:
                    rows = read_rows(series, masks, schema=schema, image=self._image)
                    self._cache.keep_rows(name, rows)
            except (ConfigError, StorageError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a file holds, it is one file
                reading.quarantined.extend(Quarantined(path, _reason(error)) for path in files)
                continue
            finally:
                if self._progress is not None:
                    self._progress(number, len(scan.series))
            weights = tuple(int(one) for one in rows.weight)
            names = tuple(relative(path, self._folder) for path in files)
            reading.cases.append(Case(series.patient, folder, name, weights, rows.has_mask, names))
        if schema.structures:
            reading.quarantined.extend(_masks_of_nothing(scan, used))
        return reading

    def _load(self, name: str) -> CaseRows:
        rows = self._cache.load_rows(name)
        if rows is None:
            raise StorageError(
                f"{self._cache.folder}: a file of the cache was damaged; delete the folder"
            )
        return rows

    def _write_quarantine(self, index: Index, left_out: Sequence[Case]) -> Path:
        found = [Quarantined(self._folder / file, reason) for file, reason in index.quarantined]
        found += [
            Quarantined(self._folder / file, NOTHING_TO_LEARN)
            for case in left_out
            for file in case.files
        ]
        return write_quarantine(self._cache.folder, found, root=self._folder)


def read_rows(
    series: Series, masks: Sequence[MaskFile], *, schema: ImageSchema, image: ImageConfig
) -> CaseRows:
    """Return the rows of one series with its masks; of two labels on a voxel the higher counts.

    Raises:
        SiteDataError: with the reason why it cannot be used.
    """
    grid = read_grid(series, masks, schema)
    depth, height, width = grid.voxels_DHW.shape
    return replace(
        rows_of(grid, image, schema),
        scan_size=(depth, height, width),
        scan_spacing_mm=grid.spacing_mm,
    )


def read_grid(series: Series, masks: Sequence[MaskFile], schema: ImageSchema) -> Grid:
    """Return one series with its masks, in the schema's unit.

    Raises:
        SiteDataError: with the reason why it cannot be used.
    """
    volume = load_volume(series)
    if schema.unit == "HU" and (problem := check_hu(volume)) is not None:
        raise SiteDataError(problem)
    labels_DHW = None
    for mask in masks:
        one_DHW = load_mask(mask, series, volume, schema)
        labels_DHW = one_DHW if labels_DHW is None else np.maximum(labels_DHW, one_DHW)
    return Grid(volume.voxels_DHW, labels_DHW, volume.spacing_mm)


def _image_schema(schema: TableSchema) -> ImageSchema:
    if schema.image is None:
        raise ConfigError(
            f"data.schema: {schema.name} has no section `image`, and the site's data are scans"
        )
    return schema.image


def _listing(folder: Path, schema: ImageSchema) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of every file but the clinical table."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(where) / file
            if path == folder / schema.table or file.endswith(TABLE_SUFFIXES):
                continue
            try:
                yield _state(path, folder)
            except OSError:
                continue


def _state(path: Path, root: Path) -> tuple[str, int, int]:
    found = path.stat()
    return relative(path, root), found.st_size, found.st_mtime_ns


def first_folder(path: Path, root: Path) -> str:
    """Return the first folder of `path` below `root`; empty where it lies in `root` itself."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return parts[0] if len(parts) > 1 else ""


def _reason(error: Exception) -> str:
    """Return the reader's own words, or the kind of error: other texts can quote a file."""
    return (
        str(error) if isinstance(error, SiteDataError) else f"unreadable ({type(error).__name__})"
    )


def _masks_of_nothing(scan: Scan, used: set[Path]) -> Iterator[Quarantined]:
    for mask in scan.masks:
        if mask.path not in used:
            yield Quarantined(mask.path, "a mask of no series that is here")
