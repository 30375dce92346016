"""One class as correlated normal values behind its numbers, its categories and what is missing.

A Gaussian copula: each column is a margin (`margins.py`) of one latent normal value, and so is
each pattern of columns that are missing together. What single patients have alone, a rare category
or a rare gap, is left out of the correlations.

Legend: N rows, F columns of numbers, C of categories, M = F + C, G gaps (groups of columns that
are always missing together), D = F + C + G latent values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from fedward.synth.tables.codec import storable
from fedward.synth.tables.margins import CategoryMargin, NumberMargin, category_margin
from fedward.synth.tables.rows import Bools, Floats, Ints, Rows

MIN_PAIRS = 30
"""With fewer rows that have both values, their correlation shrinks in proportion."""
MIN_SPREAD = 0.3
"""Smallest standard deviation of scores that a correlation is corrected for."""
MAX_CORRELATION = 0.99
MIN_EIGENVALUE = 1e-4
NEVER = -1


@dataclass(frozen=True, repr=False)
class ScoredNumbers:
    """What is learned of one column of numbers: its margin, and the scores of its values."""

    margin: NumberMargin
    scores_N: Floats


LearnNumbers = Callable[[int, Floats], ScoredNumbers]
"""Of the place of a column and its known values, at least `fewest`."""


@storable
@dataclass(frozen=True, repr=False)
class ClassLatent:
    """What was learned of one class.

    Args:
        numbers: (F) margins; None where too few patients of the class have a value: such a column
            is missing in all its rows.
        categories: (C) margins, likewise.
        gaps: (G) margins of two categories: there, missing.
        gap_M: (M,) the gap that each column belongs to; -1: it is never missing.
        factor_DD: (D, D) lower Cholesky factor of the latent correlation.
    """

    numbers: tuple[NumberMargin | None, ...]
    categories: tuple[CategoryMargin | None, ...]
    gaps: tuple[CategoryMargin, ...]
    gap_M: Ints
    factor_DD: Floats

    def draw(self, size: int, rng: np.random.Generator) -> Rows:
        """Return (size) rows."""
        latent_ND = rng.standard_normal((size, len(self.factor_DD))) @ self.factor_DD.T
        num_values, num_codes = len(self.numbers), len(self.categories)
        values_NF, codes_NC = np.zeros((size, num_values)), np.zeros((size, num_codes), np.int64)
        absent_NM = np.zeros((size, num_values + num_codes), dtype=bool)
        for gap, margin in enumerate(self.gaps):
            missing_N = margin.invert(latent_ND[:, num_values + num_codes + gap]) == 1
            absent_NM[:, self.gap_M == gap] = missing_N[:, None]
        for place, margin_of in enumerate((*self.numbers, *self.categories)):
            if margin_of is None:
                absent_NM[:, place] = True
            elif place < num_values:
                values_NF[:, place] = margin_of.invert(latent_ND[:, place])
            else:
                codes_NC[:, place - num_values] = margin_of.invert(latent_ND[:, place])
        values_NF[absent_NM[:, :num_values]] = 0.0
        codes_NC[absent_NM[:, num_values:]] = 0
        return Rows(values_NF, codes_NC, absent_NM)


def gaps_of(absent_NM: Bools) -> Ints:
    """Return (M,) a number for each group of columns that are always missing together.

    -1 for columns that are never missing.
    """
    patterns, group_M = np.unique(absent_NM.T, axis=0, return_inverse=True)
    number = np.cumsum(patterns.any(axis=1)) - 1
    number[~patterns.any(axis=1)] = NEVER
    return number[group_M.ravel()].astype(np.int64)


@dataclass(frozen=True)
class Learning:
    """How much is learned from few patients."""

    allowed: tuple[Bools, ...]
    """Of each column of categories, (L,) which of them may be generated."""
    fewest: int
    """Patients: a column, category or gap of fewer is left out, as is said above."""
    pooling: float = 0.0
    """Rows of a class that weigh as much as the correlation of all classes together."""


def learn_classes(
    parts: Sequence[Rows], learn_numbers: LearnNumbers, how: Learning
) -> tuple[ClassLatent, ...]:
    """Return what the rows of each class tell.

    The correlation of a class of n rows is (n R + pooling R_all) / (n + pooling), where R_all is
    taken within classes, over all of them: as in Friedman 1989, "Regularized discriminant
    analysis", J. Am. Stat. Assoc. 84:165-175, eq. 17, with weights of ours.

    Args:
        parts: the rows of each class.
        learn_numbers: of one column of numbers.
        how: see there.
    """
    gap_M = gaps_of(np.concatenate([part.absent_NM for part in parts]))
    learned = [_learn_class(part, gap_M, learn_numbers, how) for part in parts]
    if not learned[0][1].num_columns:
        return tuple(one for one, _ in learned)
    everyone = latent_correlation(
        np.concatenate([scores.scores_ND for _, scores in learned]),
        np.concatenate([scores.known_ND for _, scores in learned]),
    )
    found = []
    for one, scores in learned:
        size = len(scores.scores_ND)
        own = latent_correlation(scores.scores_ND, scores.known_ND)
        both = (size * own + how.pooling * everyone) / (size + how.pooling)
        found.append(replace(one, factor_DD=np.linalg.cholesky(both).astype(np.float64)))
    return tuple(found)


def _learn_class(
    rows: Rows, gap_M: Ints, learn_numbers: LearnNumbers, how: Learning
) -> tuple[ClassLatent, "_Scores"]:
    """Return the margins of one class, and the scores of its rows; nothing is correlated yet."""
    scored = _Scores(len(rows), how.fewest)
    numbers: list[NumberMargin | None] = []
    categories: list[CategoryMargin | None] = []
    num_values = rows.values_NF.shape[1]
    for place in range(num_values):
        known_N = ~rows.absent_NM[:, place]
        found = None
        if known_N.sum() >= how.fewest:
            found = learn_numbers(place, rows.values_NF[known_N, place])
        scored.add(known_N, None if found is None else found.scores_N)
        numbers.append(None if found is None else found.margin)
    for place, may_be in enumerate(how.allowed):
        known_N = ~rows.absent_NM[:, num_values + place] & may_be[rows.codes_NC[:, place]]
        categories.append(scored.add_codes(known_N, rows.codes_NC[:, place], len(may_be)))
    gaps = []
    for gap in range(int(gap_M.max(initial=NEVER)) + 1):
        missing_N = rows.absent_NM[:, np.argmax(gap_M == gap)].astype(np.int64)
        margin = scored.add_codes(np.ones(len(rows), dtype=bool), missing_N, 2)
        assert margin is not None
        gaps.append(margin)
    unlinked = np.eye(scored.num_columns)
    one = ClassLatent(tuple(numbers), tuple(categories), tuple(gaps), gap_M, unlinked)
    return one, scored


class _Scores:
    """The latent value that each cell is expected to have, column after column."""

    def __init__(self, size: int, fewest: int) -> None:
        self._size, self._fewest = size, fewest
        self._scores: list[Floats] = []
        self._known: list[Bools] = []

    def add(self, known_N: Bools, scores_K: Floats | None) -> None:
        """Take the scores of the known rows; None: nothing is known of the column."""
        column = np.zeros(self._size)
        if scores_K is not None:
            column[known_N] = scores_K - scores_K.mean()
        self._scores.append(column)
        self._known.append(known_N if scores_K is not None else np.zeros(self._size, dtype=bool))

    def add_codes(self, known_N: Bools, code_N: Ints, num_codes: int) -> CategoryMargin | None:
        """Take a column of codes, and return its margin; None where too few rows have one."""
        if known_N.sum() < self._fewest:
            self.add(known_N, None)
            return None
        counts = np.bincount(code_N[known_N], minlength=num_codes).astype(np.float64)
        margin = category_margin(counts)
        common_N = known_N & (counts >= self._fewest)[code_N]
        self.add(common_N, margin.scores()[code_N[common_N]] if common_N.any() else None)
        return margin

    @property
    def num_columns(self) -> int:
        """D."""
        return len(self._scores)

    @property
    def scores_ND(self) -> Floats:
        """(N, D) the scores, 0 where nothing is known."""
        return np.column_stack(self._scores)

    @property
    def known_ND(self) -> Bools:
        """(N, D) whether a score is known."""
        return np.column_stack(self._known)


def latent_correlation(scores_ND: Floats, known_ND: Bools) -> Floats:
    """Return (D, D) the correlation of latent values: positive definite, with a diagonal of 1.

    Scores S = E[latent | cell] vary less than the latent values, by their variance v below 1, and
    the correlation r of two scores is that of the latent values times sqrt(v v'). (Exact for one
    latent value and another that is seen itself, near for two that are not.) So r is divided by
    it. Before, r is taken over the rows that have both and shrunk towards 0 by Ledoit and Wolf's
    intensity (2004, J. Multivariate Anal. 88:365-411, of the scores with 0 where missing). How
    these steps go together is ours.

    Args:
        scores_ND: (N, D) with mean 0 over the known rows, 0 elsewhere.
        known_ND: (N, D) which of them are known.
    """
    size = len(scores_ND)
    count_D = np.maximum(known_ND.sum(axis=0), 1)
    spread_D = np.sqrt((scores_ND**2).sum(axis=0) / count_D)
    z_ND = scores_ND / np.where(spread_D > 0, spread_D, 1.0)
    intensity = ledoit_wolf_shrinkage(z_ND, assume_centered=True) if size > 1 else 1.0
    pairs_DD = known_ND.T.astype(np.float64) @ known_ND
    r_DD = (1 - intensity) * (z_ND.T @ z_ND) / np.maximum(pairs_DD, MIN_PAIRS)
    seen_D = np.clip(spread_D, MIN_SPREAD, 1.0)
    r_DD = np.clip(r_DD / np.outer(seen_D, seen_D), -MAX_CORRELATION, MAX_CORRELATION)
    np.fill_diagonal(r_DD, 1.0)
    return nearest_correlation(r_DD)


def nearest_correlation(r_DD: Floats) -> Floats:
    """Return a correlation matrix near `r_DD` whose eigenvalues are above 0.

    Small eigenvalues are raised and the diagonal is scaled back to 1, once: Rebonato and Jaeckel
    1999, "The most general methodology to create a valid correlation matrix", section 3.
    """
    values, vectors = np.linalg.eigh(r_DD)
    if values[0] >= MIN_EIGENVALUE:
        return r_DD
    raised_DD: Floats = (vectors * np.maximum(values, MIN_EIGENVALUE)) @ vectors.T
    scale_D = 1 / np.sqrt(np.diag(raised_DD))
    return raised_DD * np.outer(scale_D, scale_D)
