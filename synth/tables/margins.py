"""How one column is spread within a class: from latent normal values to numbers and categories.

Nothing here holds a single patient's value: knots are means of at least `knot_size` patients.

Legend: N rows, K knots, L categories.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from fedward.synth.tables.codec import storable
from fedward.synth.tables.rows import Floats, Ints
from fedward.synth.tables.scale import normal_scores


@storable
@dataclass(frozen=True, repr=False)
class KnotMargin:
    """Numbers by their smoothed quantile function, linear between knots."""

    levels_K: Floats
    """Rising from 0 to 1."""
    values_K: Floats

    def invert(self, latent_N: Floats) -> Floats:
        """Return (N,) numbers of standard normal values."""
        value_N: Floats = np.interp(ndtr(latent_N), self.levels_K, self.values_K)
        return value_N


@storable
@dataclass(frozen=True, repr=False)
class NormalMargin:
    """Numbers that are normally distributed."""

    mean: float
    deviation: float

    def invert(self, latent_N: Floats) -> Floats:
        """Return (N,) numbers of standard normal values."""
        return self.mean + self.deviation * latent_N


NumberMargin = KnotMargin | NormalMargin


@storable
@dataclass(frozen=True, repr=False)
class CategoryMargin:
    """Categories as ordered intervals of a latent normal value, one after the other by code."""

    cuts_L: Floats
    """(L - 1,) where one category ends and the next begins, rising; may be infinite."""

    def invert(self, latent_N: Floats) -> Ints:
        """Return (N,) codes of standard normal values."""
        return np.searchsorted(self.cuts_L, latent_N, side="right").astype(np.int64)

    def scores(self) -> Floats:
        """Return (L,) the mean of the latent value within each category; 0 of an empty one."""
        edges = np.concatenate([[-np.inf], self.cuts_L, [np.inf]])
        share = np.diff(ndtr(edges))
        density = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
        score_L: Floats = np.zeros_like(share)
        np.divide(-np.diff(density), share, out=score_L, where=share > 0)
        return score_L


def knot_margin(
    known_N: Floats, *, knot_size: int, max_knots: int, floor: float, ceiling: float
) -> KnotMargin:
    """Return the margin of numbers.

    The sorted values are cut into groups of nearly equal size; a knot is the mean of a group, at
    the middle of its levels. The first and the last segment go on to the levels 0 and 1, so that
    the smallest and the largest number follow from means as well, not from a patient. Ours.

    Args:
        known_N: (N,) at least `knot_size` values, none missing.
        knot_size: fewest patients in a group.
        max_knots: most groups.
        floor: no number is smaller.
        ceiling: no number is larger.
    """
    ordered, size = np.sort(known_N), len(known_N)
    num_groups = max(1, min(max_knots, size // knot_size))
    edges = np.linspace(0, size, num_groups + 1).astype(np.int64)
    means = np.add.reduceat(ordered, edges[:-1]) / np.diff(edges)
    levels = (edges[:-1] + edges[1:]) / (2 * size)
    if num_groups == 1:
        return KnotMargin(np.array([0.0, 1.0]), np.repeat(means, 2))
    first = means[0] - (means[1] - means[0]) * levels[0] / (levels[1] - levels[0])
    last = means[-1] + (means[-1] - means[-2]) * (1 - levels[-1]) / (levels[-1] - levels[-2])
    values = np.clip(np.concatenate([[first], means, [last]]), floor, ceiling)
    # The error of a sum must not turn a flat piece into a falling one.
    return KnotMargin(np.concatenate([[0.0], levels, [1.0]]), np.maximum.accumulate(values))


def knot_scores(known_N: Floats) -> Floats:
    """Return (N,) the normal scores of values among themselves; ties share one."""
    return normal_scores(known_N, np.sort(known_N))


def normal_margin(known_N: Floats) -> NormalMargin:
    """Return the normal margin with the mean and standard deviation of values."""
    return NormalMargin(float(known_N.mean()), float(known_N.std()))


def category_margin(counts_L: Floats) -> CategoryMargin:
    """Return the margin of categories that occur in these (L,) proportions, not all 0."""
    share = np.cumsum(counts_L)[:-1] / counts_L.sum()
    return CategoryMargin(ndtri(np.clip(share, 0.0, 1.0)))
