"""Questions about patients that are answered once, by noisy sums: all that a DP method may see.

What is made of the answers afterwards is free: no step that follows can weaken the guarantee.

Legend: N patients, D sums of a query.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedward.synth.tables.codec import storable
from fedward.synth.tables.dp_noise import Below, noisy_sums
from fedward.synth.tables.rows import Floats, Ints, Rows

BLOCK_ROWS = 256
"""Patients whose contributions are in memory at once."""


@dataclass(frozen=True, repr=False)
class Patients:
    """Rows and classes, one of each per patient.

    Args:
        rows: (N) with numbers from -1 to 1 over their public bounds.
        code_N: (N,) the class; 0 everywhere without a label.
    """

    rows: Rows
    code_N: Ints

    def __len__(self) -> int:
        """Return N."""
        return len(self.code_N)

    def blocks(self) -> Iterator["Patients"]:
        """Yield all patients, few at a time."""
        for start in range(0, len(self), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            yield Patients(self.rows.take(part), self.code_N[part])


@dataclass(frozen=True)
class Query:
    """A sum over patients.

    Args:
        name: for the claim.
        size: D.
        bound: largest L2 norm of what one patient adds; longer contributions are scaled down.
        contribute: returns (N, D), each row from one patient alone and from earlier answers.
    """

    name: str
    size: int
    bound: float
    contribute: Callable[[Patients], Floats]


@storable
@dataclass(frozen=True)
class Answer:
    """A query's noisy sums, and how private they are."""

    name: str
    sums_D: Floats
    bound: float
    deviation: float
    """Standard deviation of the noise on each sum."""

    @property
    def mu(self) -> float:
        """Of Gaussian differential privacy (`dp_budget.py`)."""
        return self.bound / self.deviation


def ask(query: Query, patients: Patients, *, mu: float, below: Below) -> Answer:
    """Return the answer to a query, mu-Gaussian-private for adding or removing one patient.

    Args:
        query: to be asked once.
        patients: N, each a row of its own.
        mu: > 0, the part of the budget that it takes.
        below: source of the noise (`dp_noise.source_of`).
    """
    deviation = query.bound / mu
    sums_D = noisy_sums(
        map(query.contribute, patients.blocks()),
        query.size,
        bound=query.bound,
        deviation=deviation,
        below=below,
    )
    return Answer(query.name, sums_D, query.bound, deviation)


def one_hot(places: Sequence[Ints], sizes: Sequence[int]) -> Floats:
    """Return (N, sum of sizes) indicators, one block per column.

    Args:
        places: of each column, (N,) which of its cells is 1; -1: none.
        sizes: cells of each column.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    found_ND = np.zeros((len(places[0]), sum(sizes)))
    for place_N, start in zip(places, starts, strict=True):
        hit = np.flatnonzero(place_N >= 0)
        found_ND[hit, start + place_N[hit]] = 1.0
    return found_ND


def split_sums(sums_D: Floats, sizes: Sequence[int]) -> list[Floats]:
    """Return the blocks that `one_hot` put together."""
    return np.split(sums_D, np.cumsum(sizes)[:-1])
