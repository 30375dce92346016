"""Public bins: where a schema alone says how finely each column is counted.

Numbers get bins over the schema's range, equally wide on a logarithmic scale, because clinical
ranges are wide and values lie in a small part of them (troponin: 0 to 1000, mostly below 1).
Ranges that hold zero or less are taken on the scale of asinh instead. Nothing of it depends on a
patient, so that every site counts alike and a bin's place tells nothing.

Shapes: N rows, F fields, K classes, C cells of all fields side by side: the bins or categories of
each field, then one cell for missing values.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.table import Table

Floats = npt.NDArray[np.float64]
NEAR_ZERO = 1e-3
"""Of a range that holds zero: below this share of its larger end, bins are equally wide."""


@dataclass(frozen=True)
class Cells:
    """The cells of a table: which values fall together.

    Args:
        fields: the columns.
        num_bins: of each number.
    """

    fields: tuple[FieldSchema, ...]
    num_bins: int

    @cached_property
    def edges(self) -> tuple[Floats | None, ...]:
        """(num_bins + 1,) of each number, rising; None for categories."""
        return tuple(
            None if field.kind == "categorical" else bin_edges(field, self.num_bins)
            for field in self.fields
        )

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Cells of each field without the one for missing values."""
        return tuple(
            len(field.categories) if field.kind == "categorical" else self.num_bins
            for field in self.fields
        )

    @property
    def size(self) -> int:
        """C."""
        return sum(self.widths) + len(self.fields)

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where each field's cells stand, the last of each being the one for missing values."""
        stops = np.cumsum([width + 1 for width in self.widths])
        return tuple(
            slice(int(stop) - width - 1, int(stop))
            for stop, width in zip(stops, self.widths, strict=True)
        )

    def cell_of(self, place: int, values_N: Floats) -> npt.NDArray[np.int64]:
        """Return (N,) the cell of each value of a field, from 0; the last one where missing."""
        edges, width = self.edges[place], self.widths[place]
        missing_N = np.isnan(values_N)
        filled_N = np.where(missing_N, 0.0, values_N)
        if edges is None:
            cell_N = filled_N.astype(np.int64)
        else:
            inside = np.searchsorted(edges, filled_N, side="right") - 1
            cell_N = np.clip(inside, 0, width - 1)
        return np.where(missing_N, width, cell_N)

    def counts(self, table: Table, num_classes: int) -> Floats:
        """Return (K, C) how many rows of each class fall into each cell."""
        counts_KC = np.zeros((num_classes, self.size))
        for place, field in enumerate(self.fields):
            cell_N = self.cell_of(place, table.columns[field.name])
            for code in range(num_classes):
                own = np.bincount(cell_N[table.label == code], minlength=self.widths[place] + 1)
                counts_KC[code, self.places[place]] = own
        return counts_KC


def bin_edges(field: FieldSchema, num_bins: int) -> Floats:
    """Return the (num_bins + 1,) rising edges of a number's bins, over the range of its schema."""
    assert field.range is not None
    low, high = field.range
    if low > 0:
        edges = np.geomspace(low, high, num_bins + 1)
    else:
        scale = NEAR_ZERO * max(abs(low), abs(high))
        first, last = np.arcsinh(low / scale), np.arcsinh(high / scale)
        edges = scale * np.sinh(np.linspace(first, last, num_bins + 1))
    edges[0], edges[-1] = low, high  # rounding
    return edges
