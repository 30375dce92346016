"""A hospital's file as the source of its rows."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from fedward.client.data.read import read_frame, table_from_frame
from fedward.common.tables.schema import TableSchema
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

    @cached_property
    def _table(self) -> Table:
        frame = read_frame(self._path)
        return table_from_frame(frame, self._schema, place=str(self._path), excluded=self._excluded)
