"""A hospital's file as the source of its rows."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedward.client.data.read import read_frame, table_from_frame, usable_rows
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.table import Table


class FileSource:
    """Reads one file once. It has no repr: it leads to patients.

    Args:
        site_id: whose file it is.
        path: CSV or Parquet.
        schema: what its columns mean.
        excluded: patient ids that are never used.
    """

    def __init__(
        self, site_id: str, path: Path, schema: TableSchema, *, excluded: Collection[Any] = ()
    ) -> None:
        self.site_id = site_id
        self._path = path
        self._schema = schema
        self._excluded = excluded

    def read(self) -> Table:
        """Return the file's rows, checked against the schema.

        Raises:
            SiteDataError: the file does not hold what the schema promises.
        """
        return self._table

    def patient_ids(self) -> list[Any]:
        """Return the identifier of each usable patient, as the file spells it; each once.

        It is empty where the schema names no column for it: then nobody can be told which runs
        used a patient.

        Raises:
            SiteDataError: the file does not hold what the schema promises.
        """
        column = self._schema.patient_id
        if column is None:
            return []
        self.read()  # so that no identifier is given of a file that is refused
        rows = usable_rows(
            self._frame, self._schema, place=str(self._path), excluded=self._excluded
        )
        return list(rows[column].unique())

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return read_frame(self._path)

    @cached_property
    def _table(self) -> Table:
        return table_from_frame(
            self._frame, self._schema, place=str(self._path), excluded=self._excluded
        )


def site_source(site: LoadedSite, schema: TableSchema | None = None) -> FileSource:
    """Return the rows of the site that `site.yaml` describes; nothing is read yet.

    Args:
        site: whose.
        schema: what the columns mean; None: the schema that `site.yaml` names.

    Raises:
        ConfigError: schema or exclusion list cannot be read.
    """
    config = site.config
    return FileSource(
        config.site,
        site.file(config.data.path),
        schema or load_schema(config.data.schema_name, site.path.parent),
        excluded=read_excluded(site),
    )


def read_excluded(site: LoadedSite) -> frozenset[str]:
    """Return the ids of the patients that the site never uses: one per line of `data.exclude`.

    Empty lines, and those that begin with #, are left out.

    Raises:
        ConfigError: there is no such file. Nothing is used rather than somebody who refused.
    """
    name = site.config.data.exclude
    if name is None:
        return frozenset()
    path = site.file(name)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{site.where('data.exclude')}: data.exclude: {path}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{site.where('data.exclude')}: data.exclude: {path}: not UTF-8 text"
        ) from None
    stripped = (line.strip() for line in lines)
    return frozenset(line for line in stripped if line and not line.startswith("#"))
