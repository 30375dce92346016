"""How many rows of each class a request is for."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fedward.common.errors import ConfigError
from fedward.synth.tables.columns import Columns

ClassCounts = Literal["original", "balanced"] | Mapping[Any, int]


def class_counts_of(
    n: int | None, wanted: ClassCounts, columns: Columns, sizes: tuple[int, ...]
) -> dict[int, int]:
    """Return the rows of each class code, which add up to `n`, sorted by code.

    Args:
        n: rows; None: as many as were learned, or as `wanted` adds up to.
        wanted: shares of the training rows, equal shares, or rows per class; classes that are
            not named get none.
        columns: with the classes.
        sizes: training rows of each class; of all rows where there is no label.

    Raises:
        ConfigError: `n`, a word, a class or its number cannot be used, or they do not add up.
    """
    if n is not None and not _is_count(n):
        raise ConfigError(f"n: given {n!r}, expected a whole number from 0")
    if isinstance(wanted, Mapping):
        return _named(n, wanted, columns)
    if wanted not in {"original", "balanced"}:
        raise ConfigError(f"class_counts: given {wanted!r}, expected original, balanced or rows")
    total = sum(sizes) if n is None else int(n)
    weights = np.ones(len(sizes)) if wanted == "balanced" else np.array(sizes, dtype=float)
    exact = total * weights / weights.sum()
    counts = np.floor(exact).astype(int)
    # Largest remainders get the rows that are left; equal ones in the order of the classes.
    left = np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]
    counts[left] += 1
    return dict(enumerate(map(int, counts)))


def _named(n: int | None, wanted: Mapping[Any, int], columns: Columns) -> dict[int, int]:
    codes = {name: code for code, name in enumerate(columns.classes)}
    if not codes:
        raise ConfigError("class_counts: the table has no label; give n")
    for name, rows in wanted.items():
        if name not in codes:
            raise ConfigError(f"class_counts: there is no class {name!r}; have {list(codes)}")
        if not _is_count(rows):
            raise ConfigError(f"class_counts: class {name!r} needs a number of rows from 0")
    total = sum(wanted.values())
    if n is not None and n != total:
        raise ConfigError(f"class_counts: add up to {total}, but n is {n}")
    return {codes[name]: int(wanted[name]) for name in sorted(wanted, key=codes.__getitem__)}


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and bool(value >= 0)
