"""Synthetic rows on the wire: three arrays whose form the signed request fixes beforehand.

Shapes: N rows of all classes, F features of the run. What a site sends has exactly this form, so
that nothing but rows of the schema can be in it: no model, no further column, no further row. A
class that the site withholds keeps its place, with label -1 and zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import FieldSchema, TableSchema
from fedward.common.tables.table import Table

VALUES, ABSENT, LABEL = "rows.values", "rows.absent", "rows.label"
WITHHELD = -1

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RowForm:
    """How many rows of which columns are asked of each site."""

    fields: tuple[FieldSchema, ...]
    counts: tuple[int, ...]
    """Rows of each class, in the order of the schema's classes."""

    @classmethod
    def of(
        cls, config: SynthesisConfig, schema: TableSchema, features: tuple[str, ...] | None
    ) -> "RowForm":
        """Return the form that a run asks for.

        Raises:
            ConfigError: `synthesis.class_counts` names a class that the schema does not have.
        """
        return cls(schema.select(features), counts_of(config, schema.class_names))

    @property
    def num_rows(self) -> int:
        """N."""
        return sum(self.counts)

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """(N,) the class of each place: rows stand class by class."""
        return np.repeat(np.arange(len(self.counts)), self.counts).astype(np.int64)

    def empty(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays of this form in which every row is withheld."""
        shape = self.num_rows, len(self.fields)
        return {
            VALUES: np.zeros(shape),
            ABSENT: np.zeros(shape, dtype=np.uint8),
            LABEL: np.full(self.num_rows, WITHHELD, dtype=np.int64),
        }

    def put(self, tables: Mapping[int, Sequence[npt.NDArray[np.float64]]]) -> Arrays:
        """Return the arrays that hold the rows of some classes.

        Args:
            tables: by class, the (n,) column of each field, NaN where missing and codes of
                categories; n is the number of rows that this class was asked for.
        """
        arrays = self.empty()
        starts = np.cumsum((0, *self.counts))
        for code, columns in tables.items():
            here = slice(starts[code], starts[code + 1])
            cells_NF = np.column_stack(columns)
            absent_NF = np.isnan(cells_NF)
            arrays[VALUES][here] = np.where(absent_NF, 0.0, cells_NF)
            arrays[ABSENT][here] = absent_NF
            arrays[LABEL][here] = code
        return arrays

    def why_not(self, arrays: Arrays) -> str | None:
        """Return what is wrong with arrays of the right form that a site sent; None: nothing.

        The text names columns, never a value.
        """
        values_NF, absent_NF, label_N = arrays[VALUES], arrays[ABSENT], arrays[LABEL]
        given = label_N != WITHHELD
        if not np.array_equal(label_N[given], self.label[given]):
            return "its rows are not of the classes that were asked for"
        for code in range(len(self.counts)):
            whole = given[self.label == code]
            if whole.any() and not whole.all():
                return "it sends a part of a class; a class is given as asked, or withheld"
        if not np.isin(absent_NF, (0, 1)).all() or values_NF[~given].any():
            return "it marks cells in a way that was not agreed"
        for place, field in enumerate(self.fields):
            known = values_NF[given, place][absent_NF[given, place] == 0]
            if not _fits(known, field):
                return f"column {field.name} holds values that the schema does not allow"
        return None

    def table(self, arrays: Arrays) -> Table:
        """Return the rows that were given; each is a patient of its own."""
        given = arrays[LABEL] != WITHHELD
        cells_NF = np.where(arrays[ABSENT][given] == 1, np.nan, arrays[VALUES][given])
        columns = {field.name: cells_NF[:, place] for place, field in enumerate(self.fields)}
        return Table(columns, arrays[LABEL][given], np.arange(int(given.sum()), dtype=np.int64))


def counts_of(config: SynthesisConfig, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the rows per class that `synthesis` asks for, in the order of the classes.

    Equal shares give the first classes one row more where they do not come out even.

    Raises:
        ConfigError: it names an unknown class.
    """
    wanted = config.class_counts
    if wanted is None:
        each, left = divmod(config.rows_per_site, len(class_names))
        return tuple(each + (place < left) for place in range(len(class_names)))
    for name in wanted:
        if name not in class_names:
            raise ConfigError(
                f"synthesis.class_counts: the schema has no class {name!r}"
                f"{did_you_mean(name, class_names)}; it has {', '.join(class_names)}"
            )
    return tuple(wanted.get(name, 0) for name in class_names)


def _fits(known: npt.NDArray[np.float64], field: FieldSchema) -> bool:
    if field.kind == "categorical":
        return bool(np.isin(known, np.arange(len(field.categories))).all())
    assert field.range is not None
    low, high = field.range
    return bool(((known >= low) & (known <= high)).all())
