"""Which class the nearest training rows vote for, in a distance of numbers and categories.

The squared distance of two rows is the sum over columns of

    numbers       (z - z')**2;  1 + z**2 where one of them is missing, 0 where both are
    categories    1 where they differ, missing being a category of its own; else 0

so that a missing number is as far as a standardised value that is not known, and two categories
half as far as two random numbers. It is Euclidean in the coordinates of `Embedding`.

The search is scikit-learn's, by brute force, which compares everything in blocks: from about ten
columns on the trees that `auto` takes are slower, up to tenfold.

Shapes: B candidates, N training rows, E coordinates, K classes, A neighbours asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from fedward.synth.tables.rows import Floats, Ints, Rows

Vote = Literal["majority", "prior", "distance"]
Points = npt.NDArray[np.float32]

TOUCHING = 1e-3
"""Distances below this count as this: a candidate on top of a training row is of its class."""


@dataclass(frozen=True)
class Embedding:
    """Where rows lie so that their Euclidean distance is the mixed one.

    Args:
        num_categories: of each column of categories.
        flagged: the columns of numbers that may be missing.
    """

    num_categories: tuple[int, ...]
    flagged: tuple[int, ...]

    @classmethod
    def of(cls, rows: Rows, num_categories: Sequence[int]) -> "Embedding":
        """Return the embedding of training rows, and of others that lack the same columns."""
        absent_F = rows.absent_NM[:, : rows.values_NF.shape[1]].any(axis=0)
        return cls(tuple(num_categories), tuple(map(int, np.flatnonzero(absent_F))))

    def points(self, rows: Rows) -> Points:
        """Return (N, E) the rows' coordinates."""
        num_values = rows.values_NF.shape[1]
        parts = [rows.values_NF, rows.absent_NM[:, list(self.flagged)]]
        for place, number in enumerate(self.num_categories):
            code = np.where(rows.absent_NM[:, num_values + place], number, rows.codes_NC[:, place])
            parts.append(np.eye(number + 1)[code] / np.sqrt(2))
        return np.concatenate(parts, axis=1, dtype=np.float32)


class Neighbours:
    """Training rows that vote.

    Args:
        points_NE: (N, E) where they lie.
        code_N: (N,) their classes, 0 to num_classes - 1.
        num_classes: K.
        k: how many are asked; at least one fewer than N where one may be left out.
        by_distance: whether each vote weighs 1 / distance.
    """

    def __init__(
        self, points_NE: Points, code_N: Ints, *, num_classes: int, k: int, by_distance: bool
    ) -> None:
        self._search = NearestNeighbors(algorithm="brute").fit(points_NE)
        self._code_N, self._num_classes = code_N, num_classes
        self._k, self._by_distance = k, by_distance

    def votes(self, points_BE: Points, without_B: Ints | None = None) -> Floats:
        """Return (B, K) the votes of each candidate's neighbours.

        Args:
            points_BE: (B, E) where the candidates lie.
            without_B: (B,) the training row that has no vote on each; -1: all have.
        """
        votes_BK = np.zeros((len(points_BE), self._num_classes))
        if len(points_BE) == 0:
            return votes_BK
        asked = self._k + (without_B is not None)
        distance_BA, index_BA = self._search.kneighbors(points_BE, asked)
        weight_BA = np.ones(index_BA.shape)
        if self._by_distance:
            weight_BA = 1 / np.maximum(distance_BA, TOUCHING)
        if without_B is not None:
            is_silent_BA = index_BA == without_B[:, None]
            # One too many was asked: the farthest, where the silent row is not among them.
            is_silent_BA[~is_silent_BA.any(axis=1), -1] = True
            weight_BA[is_silent_BA] = 0.0
        code_BA = self._code_N[index_BA]
        for code in range(self._num_classes):
            votes_BK[:, code] = (weight_BA * (code_BA == code)).sum(axis=1)
        return votes_BK


def elect(votes_BK: Floats, vote: Vote, share_K: Floats) -> Ints:
    """Return (B,) the class that each candidate's neighbours vote for.

    Args:
        votes_BK: (B, K) their votes.
        vote: `majority` and `distance`: the class with most votes; `prior`: the one with most
            votes for its share of the training rows. The first of equal ones.
        share_K: (K,) shares of the training rows, each above 0.
    """
    weight_BK = votes_BK / share_K if vote == "prior" else votes_BK
    winner_B: Ints = np.argmax(weight_BK, axis=1)
    return winner_B
