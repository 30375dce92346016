"""A site's rows as numpy columns, checked against the schema. Holds patients: it has no repr."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Table:
    """N rows of one site.

    Args:
        columns: (N,) float64 per field, NaN where missing; a categorical field holds the index
            of its category.
        label: (N,) class of each row.
        patient_id: (N,) whose row it is.
        subgroups: (N,) membership per subgroup of the schema.
        train_label: (N,) what is trained on where that is not `label`: a shuffled control.
        arrays: (N, ...) what a row has beside its columns: `image` and `mask` (see
            `fedward.common.images.rows`).
    """

    columns: Mapping[str, Column]
    label: Ints
    patient_id: Ints
    subgroups: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    train_label: Ints | None = None
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return N."""
        return len(self.label)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Table":
        """Return some of the rows."""
        return Table(
            {name: column[rows] for name, column in self.columns.items()},
            self.label[rows],
            self.patient_id[rows],
            {name: member[rows] for name, member in self.subgroups.items()},
            None if self.train_label is None else self.train_label[rows],
            {name: array[rows] for name, array in self.arrays.items()},
        )


class TableSource(Protocol):
    """Where a site's rows come from: the only thing that differs between the two worlds."""

    @property
    def site_id(self) -> str:
        """Whose rows they are."""

    def read(self) -> Table:
        """Return the site's rows, checked against the schema."""
