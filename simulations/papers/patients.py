"""The patients of a study: read once, drawn anew for every seed."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.data.catalogue import resolve_root
from fedward.client.data.patient_frame import Cohort, described
from fedward.client.data.read import read_frame
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.randomness import numpy_generator
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import load_schema
from fedward.simulations.papers.config import StudyData, TableConfig
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Draw:
    """The patients of one seed. It has no repr."""

    columns: Columns
    train: pd.DataFrame
    holdout: pd.DataFrame
    """Other patients of the same hospital: tests, and non-members of attacks."""
    reference: pd.DataFrame | None
    """Still others, that an attacker has; None where the hospital is too small for it."""
    external: dict[str, pd.DataFrame]
    """Patients of other hospitals."""


class Patients:
    """All tables of a study. It has no repr: it holds patients.

    Args:
        data: whose.
        base_dir: where relative paths start.

    Raises:
        ConfigError: the data set is not here, or a table has no such column.
        SiteDataError: a table does not hold what the schema promises.
    """

    def __init__(self, data: StudyData, base_dir: Path) -> None:
        self._data = data
        self._root = resolve_root(data.root, base_dir)
        self._schema = load_schema(data.schema_name, base_dir)
        self._read_file = lru_cache(read_frame)
        self._train = self._read(data.train)
        self._external = {name: self._read(one).frame for name, one in data.external.items()}
        if self.columns.label is None:
            raise ConfigError(
                f"data.schema: {data.schema_name} has no label; there is none to learn"
            )

    @property
    def columns(self) -> Columns:
        """Of all tables."""
        return self._train.columns

    def draw(self, seed: int) -> Draw:
        """Return the patients of one seed; no patient is in two tables.

        Raises:
            SiteDataError: a table has too few patients of a class.
        """
        config = self._data.train
        rng = numpy_generator(seed, purpose="study patients")
        frame = self._train.frame
        if config.rows is not None:
            train = self._of_classes(frame, config.rows, rng, config.file)
        else:
            assert config.share is not None
            codes = class_codes(self.columns, frame)
            sizes = np.bincount(codes)
            names = self.columns.class_names
            wanted = {
                name: round(config.share * size) for name, size in zip(names, sizes, strict=True)
            }
            train = self._of_classes(frame, wanted, rng, config.file)
        others = rng.permutation(np.setdiff1d(np.arange(len(frame)), train))
        holdout, rest = np.split(others, [config.holdout_rows])
        reference = None if len(rest) < len(holdout) else _rows(frame, rest)
        external = {}
        for name, one in self._data.external.items():
            table = self._external[name]
            index = (
                np.arange(len(table))
                if one.rows is None
                else self._of_classes(table, one.rows, rng, one.file)
            )
            external[name] = _rows(table, index)
        return Draw(
            self.columns,
            _rows(frame, train),
            _rows(frame, holdout),
            reference,
            external,
        )

    def _of_classes(
        self, frame: pd.DataFrame, rows: dict[str, int], rng: np.random.Generator, file: str
    ) -> Ints:
        codes = class_codes(self.columns, frame)
        drawn = []
        for name, size in rows.items():
            there = np.flatnonzero(codes == class_code(self.columns, name))
            if len(there) < size:
                raise SiteDataError(f"{file}: fewer than {size} patients of class {name!r}")
            drawn.append(rng.choice(there, size, replace=False))
        return np.sort(np.concatenate(drawn))

    def _read(self, table: TableConfig) -> Cohort:
        path = self._root / table.file
        frame = self._read_file(path)
        for column, value in table.where.items():
            if column not in frame:
                raise ConfigError(f"where: {path.name} has no column {column!r}")
            frame = frame[frame[column] == value]
        return described(frame.reset_index(drop=True), self._schema, self._data.features, str(path))


def class_code(columns: Columns, name: str) -> int:
    """Return the code of the class that is called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in columns.class_names:
        raise ConfigError(
            f"rows: there is no class {name!r}{did_you_mean(name, columns.class_names)}"
        )
    return columns.class_names.index(name)


def _rows(frame: pd.DataFrame, index: Ints) -> pd.DataFrame:
    return frame.iloc[np.sort(index)].reset_index(drop=True)
