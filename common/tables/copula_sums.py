"""A Gaussian copula from sums: margins from counts, correlations from sums of normal scores.

Both add up over sites, so that a federation has the copula of all its patients without a row.
Each field has two latent normal variables: one for its value, one for whether it is missing, so
that values that are ordered together are missing together. A copula is made for each class.

Shapes: as in `bins.py`; D = 2 F latent variables (values first, then missing), P = D (D - 1) / 2
pairs of them, in the order of `numpy.triu_indices`.

Source: Gaussian copula, Nelsen 2006, section 2.3; scores of categories as conditional means of the
latent normal, whose attenuation is undone to first order (ours; exact as correlations go to 0).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from fedward.common.tables.bins import Cells, Floats
from fedward.common.tables.table import Table

LARGEST_SCORE = 3.5
LARGEST_CORRELATION = 0.99
SMALLEST_EIGENVALUE = 1e-4


def num_pairs(num_fields: int) -> int:
    """Return P."""
    return num_fields * (2 * num_fields - 1)


@dataclass(frozen=True)
class Margins:
    """How one class is spread over the cells.

    Args:
        cells: the public bins.
        counts_C: (C,) patients in each cell; noised counts may be negative.
    """

    cells: Cells
    counts_C: Floats

    @cached_property
    def shares(self) -> tuple[Floats, ...]:
        """Of each field, (width,) the shares of its cells among the known values."""
        found = []
        for place in self.cells.places:
            known = np.maximum(self.counts_C[place][:-1], 0.0)
            total = known.sum()
            found.append(known / total if total > 0 else np.full(len(known), 1 / len(known)))
        return tuple(found)

    @cached_property
    def missing_F(self) -> Floats:
        """(F,) share of missing values."""
        found = []
        for place in self.cells.places:
            counts = np.maximum(self.counts_C[place], 0.0)
            total = counts.sum()
            found.append(counts[-1] / total if total > 0 else 0.0)
        return np.array(found)

    @cached_property
    def below(self) -> tuple[Floats, ...]:
        """Of each field, (width + 1,) the share of known values below each edge."""
        # A sum of shares may end a rounding error above 1, where no normal value stands.
        return tuple(
            np.minimum(np.concatenate([[0.0], np.cumsum(share)]), 1.0) for share in self.shares
        )

    @cached_property
    def category_scores(self) -> tuple[Floats, ...]:
        """Of each field, (width,) the mean of a standard normal inside each cell."""
        return tuple(_mean_scores(below) for below in self.below)

    @cached_property
    def missing_scores_F2(self) -> Floats:
        """(F, 2) the scores of a missing and of a known value; 0 where only one happens."""
        scores = [_mean_scores(np.array([0.0, share, 1.0])) for share in self.missing_F]
        return np.array(scores).reshape(-1, 2)

    @cached_property
    def variance_D(self) -> Floats:
        """(D,) the variance of each score; 1 for numbers."""
        values = [
            1.0 if edges is not None else float(share @ score**2)
            for edges, share, score in zip(
                self.cells.edges, self.shares, self.category_scores, strict=True
            )
        ]
        share_F2 = np.column_stack([self.missing_F, 1 - self.missing_F])
        return np.concatenate([values, (share_F2 * self.missing_scores_F2**2).sum(axis=1)])

    def scores(self, table: Table) -> Floats:
        """Return (N, D) the latent scores of rows; 0 for a value that is missing."""
        size, fields = len(table), self.cells.fields
        z_ND = np.zeros((size, 2 * len(fields)))
        for place, field in enumerate(fields):
            values_N = table.columns[field.name]
            missing_N = np.isnan(values_N)
            z_ND[:, place] = np.where(missing_N, 0.0, self._value_scores(place, values_N))
            of_missing, of_known = self.missing_scores_F2[place]
            z_ND[:, len(fields) + place] = np.where(missing_N, of_missing, of_known)
        return z_ND

    def _value_scores(self, place: int, values_N: Floats) -> Floats:
        edges, width = self.cells.edges[place], self.cells.widths[place]
        cell_N = np.minimum(self.cells.cell_of(place, values_N), width - 1)
        if edges is None:
            return self.category_scores[place][cell_N]
        inside_N = (values_N - edges[cell_N]) / (edges[cell_N + 1] - edges[cell_N])
        level_N = self.below[place][cell_N] + inside_N * self.shares[place][cell_N]
        score_N: Floats = ndtri(np.clip(level_N, 0.0, 1.0))
        return np.clip(score_N, -LARGEST_SCORE, LARGEST_SCORE)


def pair_sums(z_ND: Floats) -> Floats:
    """Return (P,) the sum over rows of the product of each pair of scores."""
    gram_DD = z_ND.T @ z_ND
    return gram_DD[np.triu_indices(len(gram_DD), 1)]


def correlations(sums_P: Floats, patients_P: Floats, margins: Margins) -> Floats:
    """Return (D, D) the correlations of the latent variables of one class, positive definite.

    Args:
        sums_P: (P,) sums of products of scores, over all sites.
        patients_P: (P,) how many patients each sum is over, known values or not; 0: unknown,
            and taken as uncorrelated.
        margins: under which the scores were taken.
    """
    count = len(margins.cells.fields)
    upper = np.triu_indices(2 * count, 1)
    mean_DD = np.zeros((2 * count, 2 * count))
    mean_DD[upper] = np.divide(sums_P, patients_P, out=np.zeros_like(sums_P), where=patients_P > 0)
    mean_DD += mean_DD.T
    scale_DD = np.outer(margins.variance_D, margins.variance_D) * _known_DD(mean_DD, margins)
    # A variable that takes one value only has no variance, and a pair that is never known together
    # has no share: neither is correlated with anything.
    ratio_DD = np.divide(mean_DD, scale_DD, out=np.zeros_like(mean_DD), where=scale_DD > 1e-9)
    ratio_DD = np.clip(ratio_DD, -LARGEST_CORRELATION, LARGEST_CORRELATION)
    own = np.arange(count)
    ratio_DD[own, own + count] = ratio_DD[own + count, own] = 0.0  # a missing value has no score
    np.fill_diagonal(ratio_DD, 1.0)
    return positive_definite(ratio_DD)


def positive_definite(matrix_DD: Floats) -> Floats:
    """Return the matrix with eigenvalues of at least `SMALLEST_EIGENVALUE`, and ones in it.

    Source: the spectral method of Rebonato and Jaeckel 1999.
    """
    values_D, vectors_DD = np.linalg.eigh(matrix_DD)
    if values_D[0] >= SMALLEST_EIGENVALUE:
        return matrix_DD
    raised_D = np.maximum(values_D, SMALLEST_EIGENVALUE)
    raised_DD = (vectors_DD * raised_D) @ vectors_DD.T
    deviation_D = np.sqrt(np.diag(raised_DD))
    found_DD: Floats = raised_DD / np.outer(deviation_D, deviation_D)
    return found_DD


@dataclass(frozen=True)
class ClassCopula:
    """The distribution of one class: margins and correlations. It holds no row."""

    margins: Margins
    correlation_DD: Floats

    def draw(self, num_rows: int, rng: np.random.Generator) -> dict[str, Floats]:
        """Return (num_rows,) values of each field: NaN where missing, codes of categories."""
        fields = self.margins.cells.fields
        z_ND = rng.standard_normal((num_rows, 2 * len(fields))) @ self._factor_DD.T
        level_ND = ndtr(z_ND)
        columns = {}
        for place, field in enumerate(fields):
            value_N = self._values(place, level_ND[:, place])
            is_missing_N = level_ND[:, len(fields) + place] < self.margins.missing_F[place]
            columns[field.name] = np.where(is_missing_N, np.nan, value_N)
        return columns

    @cached_property
    def _factor_DD(self) -> Floats:
        return np.linalg.cholesky(self.correlation_DD).astype(np.float64)

    def _values(self, place: int, level_N: Floats) -> Floats:
        edges, below = self.margins.cells.edges[place], self.margins.below[place]
        cell_N = np.clip(np.searchsorted(below, level_N, side="right") - 1, 0, len(below) - 2)
        if edges is None:
            return cell_N.astype(np.float64)
        share_N = self.margins.shares[place][cell_N]
        inside_N = np.divide(
            level_N - below[cell_N], share_N, out=np.zeros_like(level_N), where=share_N > 0
        )
        return edges[cell_N] + np.clip(inside_N, 0, 1) * (edges[cell_N + 1] - edges[cell_N])


def _mean_scores(below: Floats) -> Floats:
    """Return the mean of a standard normal between neighbouring levels; 0 where they are equal."""
    edge = ndtri(below)
    density = np.exp(-0.5 * np.where(np.isinf(edge), 0.0, edge) ** 2) / np.sqrt(2 * np.pi)
    density = np.where(np.isinf(edge), 0.0, density)
    share = np.diff(below)
    return np.divide(-np.diff(density), share, out=np.zeros_like(share), where=share > 1e-12)


def _known_DD(mean_DD: Floats, margins: Margins) -> npt.NDArray[np.float64]:
    """Return (D, D) the share of patients in which a pair of scores is not 0 for want of a value.

    How often two values are known together follows from the scores of their being missing: those
    take two values each, so that the mean of their product gives the covariance.
    """
    count = len(margins.cells.fields)
    known_F = 1 - margins.missing_F
    step_F = margins.missing_scores_F2[:, 0] - margins.missing_scores_F2[:, 1]
    steps_FF = np.outer(step_F, step_F)
    covariance_FF = np.divide(
        mean_DD[count:, count:], steps_FF, out=np.zeros_like(steps_FF), where=steps_FF != 0
    )
    both_FF = np.outer(known_F, known_F) + covariance_FF
    least_FF = np.maximum(np.add.outer(known_F, known_F) - 1, 0.0)
    most_FF = np.minimum.outer(known_F, known_F)
    share_DD = np.ones_like(mean_DD)
    share_DD[:count, :count] = np.clip(both_FF, least_FF, most_FF)
    share_DD[:count, count:] = known_F[:, np.newaxis]
    share_DD[count:, :count] = known_F[np.newaxis, :]
    return share_DD
