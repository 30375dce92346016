"""How columns go together and how classes differ, from noisy sums of clipped normal scores.

Each patient becomes a vector v of scores: the normal score of a number among all patients, the
expected latent value of a category, likewise of a gap (missing or not), 0 where there is no value.
Vectors longer than R, about one of six, are scaled down to it. Then

* *means*: the sum of v per class; one patient adds a vector of length R at most;
* *correlation*: the sum of v v^T, its upper triangle with the diagonal divided by sqrt(2), which
  has exactly the length |v|^2 / sqrt(2), so R^2 / sqrt(2) at most.

The scores are public by then: they follow from the answers about margins. Correlations that may be
noise are taken for 0 (Bickel and Levina 2008, Ann. Statist. 36:2577-2604), and the matrix is made
positive definite. The scheme is ours, after Asghar et al. 2020, arXiv:1902.01499.

Legend: N patients, F columns of numbers, A of categories, M = F + A, G gaps, D = F + A + G scores,
C classes, L categories.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from fedward.synth.tables.dp_margins import Bins, shrunk, stretched
from fedward.synth.tables.dp_queries import Answer, Patients, Query
from fedward.synth.tables.latent import nearest_correlation
from fedward.synth.tables.margins import category_margin
from fedward.synth.tables.rows import Floats, Ints, Rows

MAX_SCORE = 2.5
MIN_SPREAD = 0.3
"""Smallest standard deviation of scores that a correlation is corrected for, as in `latent.py`."""
MAX_CORRELATION = 0.98
DOUBT = 3.0
"""Correlations of fewer standard errors are taken for 0."""
MAX_ERROR = 0.5
"""Correlations with a larger standard error are not known at all."""
_FEWEST = 1e-6


@dataclass(frozen=True, repr=False)
class CodeScores:
    """Scores of categories, or of a gap: there, missing.

    Args:
        score_L: (L,) with mean 0 and variance 1 over all patients.
        spread: standard deviation of the expected latent values, before that.
    """

    score_L: Floats
    spread: float


@dataclass(frozen=True, repr=False)
class Scores:
    """How rows become vectors of scores.

    Args:
        bins: (F) of the columns of numbers.
        share_K: (F) shares of their bins among all patients.
        codes: (A) of the columns of categories.
        gaps: (G) of the columns that may be missing.
        gap_column_G: (G,) which of the M columns each gap belongs to.
        known_D: (D,) share of the patients that has each score.
    """

    bins: tuple[Bins, ...]
    share_K: tuple[Floats, ...]
    codes: tuple[CodeScores, ...]
    gaps: tuple[CodeScores, ...]
    gap_column_G: Ints
    known_D: Floats

    def __len__(self) -> int:
        """Return D."""
        return len(self.known_D)

    @property
    def bound(self) -> float:
        """R: R^2 is the mean of |v|^2 and one standard deviation, of independent normal scores."""
        mean = max(float(self.known_D.sum()), _FEWEST)
        return math.sqrt(mean + math.sqrt(2 * mean))

    @property
    def spread_D(self) -> Floats:
        """(D,) how much each score varies, with the latent value at 1."""
        return np.array([1.0] * len(self.bins) + [one.spread for one in (*self.codes, *self.gaps)])

    @property
    def num_columns(self) -> int:
        """M."""
        return len(self.bins) + len(self.codes)

    def of(self, rows: Rows) -> Floats:
        """Return (N, D) scores; 0 where there is no value."""
        found = []
        for place, (one, share_K) in enumerate(zip(self.bins, self.share_K, strict=True)):
            level_K = np.concatenate([[0.0], np.cumsum(share_K)])
            level_N = np.interp(stretched(rows.values_NF[:, place]), one.edges_K, level_K)
            with np.errstate(divide="ignore"):
                found.append(np.clip(ndtri(np.clip(level_N, 0, 1)), -MAX_SCORE, MAX_SCORE))
        for place, code in enumerate(self.codes):
            found.append(code.score_L[rows.codes_NC[:, place]])
        for place, score_N in enumerate(found):
            found[place] = np.where(rows.absent_NM[:, place], 0.0, score_N)
        for gap, column in zip(self.gaps, self.gap_column_G, strict=True):
            found.append(gap.score_L[rows.absent_NM[:, column].astype(np.int64)])
        return np.column_stack(found)


def code_scores(share_L: Floats) -> CodeScores:
    """Return the scores of categories that have these shares."""
    margin = category_margin(share_L)
    raw_L = margin.scores()
    mean = float(share_L @ raw_L)
    spread = math.sqrt(max(float(share_L @ (raw_L - mean) ** 2), 0.0))
    scaled_L = (raw_L - mean) / max(spread, MIN_SPREAD)
    return CodeScores(np.clip(scaled_L, -MAX_SCORE, MAX_SCORE), spread)


def means_query(scores: Scores, num_classes: int) -> Query:
    """Return the query for the sums of scores per class."""

    def contribute(patients: Patients) -> Floats:
        score_ND = scores.of(patients.rows)
        is_class_NC = np.eye(num_classes)[patients.code_N]
        return (is_class_NC[:, :, None] * score_ND[:, None, :]).reshape(len(score_ND), -1)

    return Query("means", num_classes * len(scores), scores.bound, contribute)


def correlation_query(scores: Scores) -> Query:
    """Return the query for the sums of products of scores."""
    row, column = np.triu_indices(len(scores))
    weight = np.where(row == column, 1 / math.sqrt(2), 1.0)

    def contribute(patients: Patients) -> Floats:
        score_ND = scores.of(patients.rows)
        return score_ND[:, row] * score_ND[:, column] * weight

    return Query("correlation", len(row), scores.bound**2 / math.sqrt(2), contribute)


def class_shifts(answer: Answer, scores: Scores, size_C: Floats, clip: float) -> Floats:
    """Return (C, D) how far the latent values of each class lie from those of all patients.

    Args:
        answer: to `means_query`.
        scores: that it was made with.
        size_C: noisy patients per class.
        clip: the mean factor by which clipping shortens a vector.
    """
    known_D = np.maximum(scores.known_D, 0.01)
    size_C1 = size_C[:, None]
    scale_CD = size_C1 * clip * known_D
    shift_CD = answer.sums_D.reshape(len(size_C), -1) / scale_CD
    variance_CD = (answer.deviation / scale_CD) ** 2 + 1 / (size_C1 * known_D)
    shift_CD = shift_CD - (shift_CD * size_C1).sum(axis=0) / size_C.sum()
    most = shift_CD.size * MAX_SCORE**2
    shift_CD = shrunk(shift_CD, np.zeros_like(shift_CD), float(variance_CD.sum()), most=most)
    return np.clip(shift_CD / np.maximum(scores.spread_D, MIN_SPREAD), -MAX_SCORE, MAX_SCORE)


def latent_correlation(
    answer: Answer, scores: Scores, num_patients: float, shift_CD: Floats, share_C: Floats
) -> Floats:
    """Return (D, D) the correlation of latent values within classes, positive definite.

    Args:
        answer: to `correlation_query`.
        scores: that it was made with.
        num_patients: about.
        shift_CD: of the classes.
        share_C: of the classes among all patients.
    """
    moment_DD, clip = _moments(answer, scores, num_patients)
    together_DD = _known_together(moment_DD, scores, _variance(answer, num_patients, clip))
    found_DD = moment_DD / together_DD
    variance_DD = _variance(answer, num_patients, clip) / together_DD**2
    variance_DD += 1 / (num_patients * together_DD)
    seen_D = np.maximum(scores.spread_D, MIN_SPREAD)
    # What classes differ by is put on top of the latent values later.
    score_shift_CD = shift_CD * seen_D
    found_DD = found_DD - score_shift_CD.T @ (share_C[:, None] * score_shift_CD)
    found_DD = _thresholded(found_DD, variance_DD) / np.outer(seen_D, seen_D)
    # Exact for two halves (Sheppard), near for other pairs of codes; numbers need no correction.
    is_code = np.arange(len(scores)) >= len(scores.bins)
    angle_DD = np.sin(np.clip(found_DD, -math.pi / 2, math.pi / 2))
    found_DD = np.where(np.logical_and.outer(is_code, is_code), angle_DD, found_DD)
    found_DD = np.clip(found_DD, -MAX_CORRELATION, MAX_CORRELATION)
    np.fill_diagonal(found_DD, 1.0)
    return nearest_correlation(found_DD)


def clip_factor(answer: Answer, scores: Scores, num_patients: float) -> float:
    """Return the mean factor by which clipping shortens a vector, from `correlation_query`."""
    return math.sqrt(_moments(answer, scores, num_patients)[1])


def _moments(answer: Answer, scores: Scores, num_patients: float) -> tuple[Floats, float]:
    """Return the (D, D) mean products of scores, clipping undone, and the factor that undid it."""
    row, column = np.triu_indices(len(scores))
    moment_DD = np.zeros((len(scores), len(scores)))
    moment_DD[row, column] = moment_DD[column, row] = answer.sums_D / num_patients
    moment_DD[np.diag_indices(len(scores))] *= math.sqrt(2)
    clip = float(np.clip(np.trace(moment_DD) / max(scores.known_D.sum(), _FEWEST), 0.3, 1.0))
    return moment_DD / clip, clip


def _variance(answer: Answer, num_patients: float, clip: float) -> float:
    return (answer.deviation / (num_patients * clip)) ** 2


def _known_together(moment_DD: Floats, scores: Scores, variance: float) -> Floats:
    """Return (D, D) the share of patients that have both scores."""
    known_D = np.maximum(scores.known_D, 0.01)
    together_DD = np.outer(known_D, known_D)
    least_DD = np.minimum.outer(known_D, known_D)
    gap_moment_DD = _thresholded(moment_DD, np.full_like(moment_DD, variance))
    for gap, column in enumerate(scores.gap_column_G):
        for other_gap, other in enumerate(scores.gap_column_G):
            start = scores.num_columns
            phi = gap_moment_DD[start + gap, start + other_gap]
            p, q = known_D[column], known_D[other]
            both = p * q + phi * math.sqrt(p * (1 - p) * q * (1 - q))
            together_DD[column, other] = both
    # Noise must not blow up a correlation of columns that are rarely measured together.
    kept_DD: Floats = np.clip(together_DD, 0.3 * np.outer(known_D, known_D), least_DD)
    return kept_DD


def _thresholded(found: Floats, variance: Floats) -> Floats:
    """Return correlations, with 0 for those that may be noise."""
    is_clear = (np.abs(found) > DOUBT * np.sqrt(variance)) & (variance < MAX_ERROR**2)
    kept: Floats = np.where(is_clear, found, 0.0)
    return kept


def shifted_shares(share_K: Floats, shift: float) -> Floats:
    """Return (K,) shares of bins for a class whose latent values lie `shift` higher."""
    cut_K = category_margin(share_K).cuts_L - shift
    shifted_K: Floats = np.diff(ndtr(np.concatenate([[-np.inf], cut_K, [np.inf]])))
    return shifted_K
