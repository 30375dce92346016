"""SMOTE, rows on the lines between patients: augmentation only, not private.

Chawla, Bowyer, Hall and Kegelmeyer 2002, "SMOTE: Synthetic Minority Over-sampling Technique", JAIR
16:321-357: a row of the class, one of its k nearest rows of the same class, and a random point
between the two. Here every class is sampled, not the smaller one only. Categories are the
commonest among the k neighbours (SMOTE-NC, section 6.1).

Rows lie in the convex hull of two patients, so that a simple attack finds nearly every training
row; it is here as the rival that the papers compare with, and to balance a training set in house.

What is ours: a row lacks what its parent lacks; where the neighbour lacks a number, the parent's
stays. imbalanced-learn is not used: it returns the real rows together with the new ones, in one
piece, and refuses missing values.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.codec import storable
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Form, Missing
from fedward.synth.tables.knn import Embedding, Points
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall


@storable
@dataclass(frozen=True, repr=False)
class _Members:
    """The rows of one class and, of each, its (N, k) nearest others."""

    rows: Rows
    nearest_Nk: Ints


class SMOTE(Synthesiser):
    """Interpolation between neighbours of a class; augmentation only, not private.

    Args:
        columns: what the table holds; None: read off the rows.
        k: neighbours of each row, at least 1 and fewer than the rows of the smallest class.
        missing: `keep`: a row lacks what its parent lacks; `median`: filled, as is usual.
        min_class_size: fewest training rows of each class.
        max_candidates: most candidates per class and request; None: as `Synthesiser` says.
        on_shortfall: `raise` or `warn`.
        seed: unused, since nothing in `fit` is random.
    """

    _members: tuple[_Members, ...]

    def __init__(  # noqa: PLR0913 - scikit-learn's manner: every parameter by name
        self,
        columns: Columns | TableSchema | None = None,
        *,
        k: int = 5,
        missing: Missing = "keep",
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.k = k
        self.missing = missing
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        """How tables are encoded: without transforms, as lines in raw values are meant."""
        return Form("none", self.missing, bounded=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.missing not in ("keep", "median"):
            raise ConfigError(f"missing: given {self.missing!r}, expected keep or median")
        if not isinstance(self.k, int) or not 1 <= self.k < self.min_class_size:
            raise ConfigError(
                f"k: given {self.k!r}, expected 1 or more, and less than min_class_size "
                f"({self.min_class_size})"
            )

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        num_categories = [len(column.categories) for column in self.columns_.categorical]
        embedding = Embedding.of(rows, num_categories)
        members = []
        for code in range(len(self.class_sizes_)):
            own = rows.take(code_N == code)
            nearest_Nk = _nearest_others(embedding.points(own), self.k)
            codes_NC = own.codes_NC.copy()
            for place, number in enumerate(num_categories):
                absent_N = own.absent_NM[:, own.values_NF.shape[1] + place]
                codes_NC[:, place] = _commonest(
                    own.codes_NC[:, place], absent_N, nearest_Nk, number
                )
            members.append(_Members(Rows(own.values_NF, codes_NC, own.absent_NM), nearest_Nk))
        self._members = tuple(members)

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        rows, nearest_Nk = self._members[code].rows, self._members[code].nearest_Nk
        parent_N = rng.integers(len(rows), size=size)
        other_N = nearest_Nk[parent_N, rng.integers(nearest_Nk.shape[1], size=size)]
        share_N1 = rng.random((size, 1))
        made, other = rows.take(parent_N), rows.take(other_N)
        step_NF = share_N1 * (other.values_NF - made.values_NF)
        step_NF[other.absent_NM[:, : step_NF.shape[1]]] = 0.0
        step_NF[made.absent_NM[:, : step_NF.shape[1]]] = 0.0
        return Candidates(Rows(made.values_NF + step_NF, made.codes_NC, made.absent_NM), parent_N)


def _nearest_others(points_NE: Points, k: int) -> Ints:
    """Return (N, k) the places of each row's nearest other rows."""
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points_NE)
    nearest_Nk: Ints = search.kneighbors(return_distance=False)  # without the row itself
    return nearest_Nk


def _commonest(code_N: Ints, absent_N: Bools, nearest_Nk: Ints, number: int) -> Ints:
    """Return (N,) the commonest category among each row's neighbours; its own where equal."""
    votes_NK = np.zeros((len(code_N), number))
    known_Nk = ~absent_N[nearest_Nk]
    row_Nk = np.broadcast_to(np.arange(len(code_N))[:, None], nearest_Nk.shape)
    np.add.at(votes_NK, (row_Nk[known_Nk], code_N[nearest_Nk][known_Nk]), 1.0)
    votes_NK[np.arange(len(code_N)), code_N] += 0.5
    found: Ints = np.where(absent_N, 0, votes_NK.argmax(axis=1))
    return found
