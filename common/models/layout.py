"""What a model needs to know of a table: which columns of `features` belong to which field."""

from typing import Protocol


class FieldLayout(Protocol):
    """Field i owns columns starts[i]:stops[i] of the dense features; the fields cover them all.

    `fedward.common.tables.encode` has the implementation.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The fields' names."""

    @property
    def starts(self) -> tuple[int, ...]:
        """First column of each field."""

    @property
    def stops(self) -> tuple[int, ...]:
        """One past the last column of each field."""


def num_columns(layout: FieldLayout) -> int:
    """Return F, the width of the dense features."""
    return max(layout.stops, default=0)
