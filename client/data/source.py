"""A hospital's file or folder as the source of its rows."""

from collections.abc import Collection
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedward.client.cohort import read_salt
from fedward.client.data.read import read_frame, table_from_frame, usable_rows
from fedward.common.config.image import ImageConfig
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.table import Table

ARRAYS = ".npz"
CT_PACKAGES = ("pydicom", "nibabel", "skimage", "monai")


class HospitalSource(Protocol):
    """A `TableSource` that can say whose rows it uses."""

    @property
    def site_id(self) -> str:
        """Whose rows they are."""

    def read(self) -> Table:
        """Return the site's rows, checked against the schema."""

    def patient_ids(self) -> list[Any]:
        """Return the identifier of each usable patient, each once."""


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


def site_source(
    site: LoadedSite, schema: TableSchema | None = None, image: ImageConfig | None = None
) -> HospitalSource:
    """Return the rows of the site that `site.yaml` describes; nothing is read yet.

    Args:
        site: whose.
        schema: what the columns mean; None: the schema that `site.yaml` names.
        image: how the run wants its images (`data.image` of run.yaml); None: it has none.

    Raises:
        ConfigError: schema or exclusion list cannot be read, or the site's data are scans and the
            run wants none.
    """
    config = site.config
    schema = schema or load_schema(config.data.schema_name, site.path.parent)
    path = site.file(config.data.path)
    excluded = read_excluded(site)
    if config.data.format == "table":
        return open_file(config.site, path, schema, image=image, excluded=excluded)
    if image is None:
        raise ConfigError(
            f"{site.where('data.format')}: data.format: this site's data are scans, and the run "
            "does not say how it wants them (data.image in run.yaml)"
        )
    return open_scans(
        config.site,
        path,
        schema,
        image,
        cache=site.file(config.data.cache),
        excluded=excluded,
        salt=site_salt(site),
    )


def open_file(
    site_id: str,
    path: Path,
    schema: TableSchema,
    *,
    image: ImageConfig | None = None,
    excluded: Collection[Any] = (),
) -> HospitalSource:
    """Return the rows of a table, or of images in an `.npz` file; nothing is read yet."""
    if path.suffix != ARRAYS:
        return FileSource(site_id, path, schema, excluded=excluded)
    from fedward.client.data.array_source import ArraySource

    return ArraySource(site_id, path, schema, image=image, excluded=excluded)


def open_scans(  # noqa: PLR0913 - as `CtSource`
    site_id: str,
    folder: Path,
    schema: TableSchema,
    image: ImageConfig,
    *,
    cache: Path,
    excluded: Collection[Any] = (),
    salt: bytes | None = None,
) -> HospitalSource:
    """Return the rows of a folder of scans; nothing is read yet.

    Raises:
        ConfigError: the packages that read scans are not installed.
    """
    need_ct_packages()
    from fedward.client.data.ct_source import CtSource

    return CtSource(site_id, folder, schema, image, cache=cache, excluded=excluded, salt=salt)


def need_ct_packages() -> None:
    """Refuse where the packages that read scans are not installed.

    Raises:
        ConfigError: with the command that installs them.
    """
    if missing := [name for name in CT_PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            f"reading scans needs {', '.join(missing)}; install them: pip install 'fedward[ct]'"
        )


def site_salt(site: LoadedSite) -> bytes | None:
    """Return the site's salt; None before `fedward enroll` has made it."""
    path = site.file(site.config.id_salt_file)
    return read_salt(path) if path.exists() else None


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
