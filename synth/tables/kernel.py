"""The kernel density of one class: a training row at random, moved by noise.

Numbers get Gaussian noise, categories the kernel of Aitchison and Aitken 1976, Biometrika 63:413,
in the form of Li and Racine 2003, J Multivariate Analysis 86:266: the parent's category stays with
probability 1 - lambda, else one is drawn from the class, here from its smoothed shares.

What is ours: lambda, where it is not given, is the one that leaves a category as correlated with
its parent as a number is, 1 - lambda = 1 / sqrt(1 + h**2) for noise of h standard deviations.
Missing cells come from the parent (`masks.py`); where the row shows a cell that its parent lacks,
a random row of the class lends its value before the noise.

Shapes: N rows, F columns of numbers, C of categories, M = F + C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

from fedward.synth.tables.codec import storable
from fedward.synth.tables.encoder import Encoder
from fedward.synth.tables.masks import common_masks
from fedward.synth.tables.rows import Bools, Candidates, Floats, Ints, Rows
from fedward.synth.tables.scale import reflect

Interval = tuple[float | None, float | None]


@storable
@dataclass(frozen=True, repr=False)
class Noise:
    """What moves a row away from its parent.

    Args:
        bandwidth: h, in standard deviations.
        root_FF: (F, F) symmetric root of the covariance of the numbers' noise.
        redraw: lambda, from 0 to 1.
        bounds_F: lowest and highest z of each number, where rows are reflected.
    """

    bandwidth: float
    root_FF: Floats
    redraw: float
    bounds_F: tuple[Interval, ...]


@storable
@dataclass(frozen=True, repr=False)
class ClassKernel:
    """The density of the rows of one class; see `class_kernel`.

    Args:
        rows: (N) of them.
        shown_NM: (N, M) whether a cell is missing in rows made from each.
        noise: what is added.
        shares: per column of categories, their cumulative smoothed shares.
        lenders: per column that some row shows though its parent lacks it, the rows that have it.
    """

    rows: Rows
    shown_NM: Bools
    noise: Noise
    shares: tuple[Floats, ...]
    lenders: dict[int, Ints]

    def draw(self, size: int, rng: np.random.Generator) -> Candidates:
        """Return `size` rows with their parents."""
        parent_N = rng.integers(len(self.rows), size=size)
        drawn = self._completed(parent_N, rng)
        values_NF, codes_NC = drawn.values_NF, drawn.codes_NC
        # Half the time of float64, and finer than any laboratory writes.
        noise_NF = rng.standard_normal(values_NF.shape, dtype=np.float32)
        values_NF += noise_NF @ self.noise.root_FF.astype(np.float32)
        for place, (low, high) in enumerate(self.noise.bounds_F):
            if low is not None or high is not None:
                values_NF[:, place] = reflect(values_NF[:, place], low, high)
        for place, cumulative in enumerate(self.shares):
            other_N = np.searchsorted(cumulative, rng.random(size), side="right")
            is_redrawn = rng.random(size) < self.noise.redraw
            codes_NC[is_redrawn, place] = other_N[is_redrawn]
        values_NF[drawn.absent_NM[:, : values_NF.shape[1]]] = 0.0
        codes_NC[drawn.absent_NM[:, values_NF.shape[1] :]] = 0
        return Candidates(drawn, parent_N)

    def _completed(self, parent_N: Ints, rng: np.random.Generator) -> Rows:
        """Return copies of the parents with the cells that are shown."""
        copies = self.rows.take(parent_N)
        absent_NM = self.shown_NM[parent_N]
        num_values = copies.values_NF.shape[1]
        for place, lenders in self.lenders.items():
            lacking = np.flatnonzero(copies.absent_NM[:, place] & ~absent_NM[:, place])
            lent = rng.choice(lenders, len(lacking))
            if place < num_values:
                copies.values_NF[lacking, place] = self.rows.values_NF[lent, place]
            else:
                column = place - num_values
                copies.codes_NC[lacking, column] = self.rows.codes_NC[lent, column]
        return Rows(copies.values_NF, copies.codes_NC, absent_NM)


def class_kernel(
    rows: Rows, noise: Noise, *, num_categories: Sequence[int], min_mask_size: int
) -> ClassKernel:
    """Return the density of the rows of one class.

    Args:
        rows: (N) of them, at least one.
        noise: what is added.
        num_categories: of each column of categories.
        min_mask_size: fewest rows that share a pattern of missing cells (`masks.py`).

    Raises:
        ConfigError: no pattern is shared by so many.
    """
    num_values = rows.values_NF.shape[1]
    shown_NM = common_masks(rows.absent_NM, min_mask_size)
    shares = tuple(
        _smoothed_shares(rows.codes_NC[~rows.absent_NM[:, num_values + place], place], number)
        for place, number in enumerate(num_categories)
    )
    lacking = np.flatnonzero((rows.absent_NM & ~shown_NM).any(axis=0))
    lenders = {int(place): np.flatnonzero(~rows.absent_NM[:, place]) for place in lacking}
    return ClassKernel(rows, shown_NM, noise, shares, lenders)


def matched_redraw(bandwidth: float) -> float:
    """Return the lambda that leaves categories as correlated with their parents as numbers."""
    return float(1 - 1 / np.sqrt(1 + bandwidth**2))


def isotropic_root(bandwidth: float, varies_F: Bools) -> Floats:
    """Return the root of a covariance of independent noise; a constant column has none."""
    return np.diag(bandwidth * varies_F.astype(np.float64))


def full_root(bandwidth: float, values_NF: Floats, absent_NF: Bools) -> Floats:
    """Return the root of h**2 times the covariance of a class.

    Variances are those of the known values; correlations are shrunk (Ledoit and Wolf 2004, J
    Multivariate Analysis 88:365), with missing values at the mean, which draws them towards 0.

    Args:
        bandwidth: h > 0, in units of the class's own spread.
        values_NF: (N, F) numbers of the class; 0 where missing.
        absent_NF: (N, F) whether a number is missing.
    """
    known_F = np.maximum((~absent_NF).sum(axis=0), 1)
    mean_F = values_NF.sum(axis=0) / known_F
    centred_NF = np.where(absent_NF, 0.0, values_NF - mean_F)
    deviation_F = np.sqrt((centred_NF**2).sum(axis=0) / known_F)
    varies_F = deviation_F > 0
    scaled_NF = centred_NF[:, varies_F] / deviation_F[varies_F]
    if scaled_NF.shape[1] == 0:
        return np.zeros((len(deviation_F), len(deviation_F)))
    shrunk = ledoit_wolf(scaled_NF, assume_centered=True)[0]
    unit = np.sqrt(np.diag(shrunk))
    spread = deviation_F[varies_F] * bandwidth
    covariance = shrunk / np.outer(unit, unit) * np.outer(spread, spread)
    value, vector = np.linalg.eigh(covariance)
    root_FF = np.zeros((len(deviation_F), len(deviation_F)))
    root_FF[np.ix_(varies_F, varies_F)] = (vector * np.sqrt(np.maximum(value, 0.0))) @ vector.T
    return root_FF


def z_bounds(encoder: Encoder) -> tuple[Interval, ...]:
    """Return the lowest and highest z of each number; None where the form keeps no bounds."""
    if not encoder.form.bounded:
        return tuple((None, None) for _ in encoder.scales)
    bounds: list[Interval] = []
    for column, scale in zip(encoder.columns.continuous, encoder.scales, strict=True):
        low, high = scale.written_bounds(column.low, column.high)
        bounds.append((scale.place(low), scale.place(high)))
    return tuple(bounds)


def _smoothed_shares(code_N: Ints, number: int) -> Floats:
    """Return (number,) cumulative shares of categories, half a row added to each (Jeffreys)."""
    shares = np.bincount(code_N, minlength=number) + 0.5
    cumulative: Floats = np.cumsum(shares) / shares.sum()
    cumulative[-1] = 1.0
    return cumulative
