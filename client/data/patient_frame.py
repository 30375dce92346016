"""A file of patients as the frame that synthesisers learn: by a schema, or read off the columns.

One row is one patient: whose rows are more than one would be learned, split and counted wrongly.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from fedward.client.data.read import read_frame, table_from_frame
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.synth.tables.checks import columns_for
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.detect import detect
from fedward.synth.tables.table_frame import frame_of

MIN_HOLDOUT = 20


@dataclass(frozen=True, repr=False)
class Cohort:
    """Patients of one file. It has no repr."""

    columns: Columns
    frame: pd.DataFrame
    """In the form that `columns` describe."""

    def split(self, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return training and held-out rows, with the same share of each class.

        Args:
            share: of the rows that are held out, 0 to below 1.
            seed: the same seed and file give the same split.

        Raises:
            ConfigError: the share is out of range.
            SiteDataError: too few rows would be held out to test anything on them.
        """
        if share == 0:
            return self.frame, self.frame.iloc[:0]
        if not 0 < share < 1:
            raise ConfigError(f"--holdout: given {share:g}, expected 0 to below 1")
        if share * len(self.frame) < MIN_HOLDOUT:
            raise SiteDataError(f"--holdout: fewer than {MIN_HOLDOUT} rows would be held out")
        train, held = train_test_split(
            np.arange(len(self.frame)),
            test_size=share,
            random_state=seed,
            stratify=self._strata(),
        )
        return self._rows(train), self._rows(held)

    def _strata(self) -> npt.NDArray[np.object_] | None:
        label = self.columns.label
        if label is None or self.frame[label].value_counts().min() < 2:
            return None
        return self.frame[label].to_numpy(dtype=object)

    def _rows(self, index: npt.NDArray[np.int64]) -> pd.DataFrame:
        return self.frame.iloc[np.sort(index)].reset_index(drop=True)


@dataclass(frozen=True)
class View:
    """How a file is read."""

    schema: str | None = None
    """Name of a shipped schema, or a schema file; None: columns are read off the rows."""
    label: str | None = None
    """Of a table without a schema; None: it has none."""
    features: tuple[str, ...] | None = None
    """Names of the columns that are used; None: all."""
    drop: tuple[str, ...] = ()
    """Names of columns that are left out."""
    allow: tuple[str, ...] = ()
    """Columns that look like identifiers and are none."""


def read_cohort(path: Path, view: View) -> Cohort:
    """Return the patients in a CSV or Parquet file.

    Raises:
        SiteDataError: the file cannot be used.
        ConfigError: the view cannot.
    """
    frame = read_frame(path)
    if view.schema is None:
        return _detected(frame, view)
    if view.label is not None or view.allow:
        raise ConfigError("--schema: says what the label and the columns are; leave out the rest")
    schema = load_schema(view.schema)
    names = tuple(f.name for f in schema.select(view.features) if f.name not in view.drop)
    return described(frame, schema, names, str(path))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_like(path: Path, columns: Columns, schema: str | None = None) -> pd.DataFrame:
    """Return the rows of a file in the form of `columns`.

    Args:
        path: CSV or Parquet: synthetic rows, or another hospital's patients.
        columns: of the table that a synthesiser learned.
        schema: of patients whose file has missing codes or other columns; None: as it stands.

    Raises:
        SiteDataError: it has not these columns.
    """
    if schema is not None:
        other = described(read_frame(path), load_schema(schema), columns.names, str(path))
        return other.frame
    _, frame = columns_for(columns, read_frame(path), None)
    return frame


def described(
    frame: pd.DataFrame, schema: TableSchema, features: tuple[str, ...] | None, place: str
) -> Cohort:
    """Return the patients in `frame`, checked against a schema.

    Args:
        frame: as `read_frame` returned it.
        schema: what its columns mean.
        features: names of the fields that are used; None: all.
        place: file or site, for messages.

    Raises:
        SiteDataError: it is not as the schema says, or a patient has several rows.
    """
    columns = Columns.of_schema(schema, features)
    table = table_from_frame(frame, schema, place=place)
    if len(np.unique(table.patient_id)) < len(table):
        raise SiteDataError(
            f"{place}: patients have more than one row; synthetic rows stand for patients, so "
            "join each patient's rows into one first"
        )
    return Cohort(columns, frame_of(table, columns))


def _detected(frame: pd.DataFrame, view: View) -> Cohort:
    chosen = frame.columns if view.features is None else view.features
    label = [] if view.label is None else [view.label]
    wanted = [name for name in chosen if name not in {*view.drop, *label}]
    if missing := [name for name in (*wanted, *label, *view.drop) if name not in frame]:
        raise ConfigError(
            f"the file has no column {', '.join(map(str, missing))} (--features, --label, --drop)"
        )
    frame = frame[[*wanted, *label]]
    columns, table = columns_for(detect(frame, label=view.label, allow=view.allow), frame, None)
    return Cohort(columns, table)
