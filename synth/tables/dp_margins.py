"""How each column is spread, from noisy counts: where its values lie, then how many in each bin.

Bounds in a schema are wide (they catch wrong units), so bins of equal width would put nearly
everybody into one. Two queries share the budget instead:

1. *location*: counts per column over a few public bins, narrow near both bounds and wide between;
2. *margins*: counts per class over bins placed by the first answer, and of what is missing.

A patient is in one bin of each column, so one contribution has length sqrt(columns + 1), however
many bins and classes there are. Counts of a class are pulled towards those of all classes as far as
their noise explains the difference (James and Stein 1961): small classes borrow, large ones speak
for themselves. The scheme is ours.

Legend: N patients, F columns of numbers, C classes, J and K bins, L categories.
"""

import math
from dataclasses import dataclass

import numpy as np

from fedward.synth.tables.dp_queries import Answer, Patients, Query, one_hot, split_sums
from fedward.synth.tables.margins import KnotMargin
from fedward.synth.tables.rows import Floats, Ints

LOCATION_BINS = 12
FEWEST_BINS, MOST_BINS = 4, 32
NOISE_PER_BIN = 4.0
"""Bins are so few that one of them holds this many standard deviations of noise on average."""
SIGNIFICANT = 2.0
"""Counts of fewer standard deviations of noise are taken for 0 where that decides something."""
CERTAIN = 3.5
"""Where no bin of a column holds so many standard deviations of noise, nothing is known of it."""
UNIFORM_PART = 0.25
"""Share of the bins that is spread evenly, so that none becomes too wide."""
_INNER = math.log(1000)
"""The outermost public bins begin a thousandth of the range away from a bound."""
_END = 8.0
STEPS_PER_BIN = 4


@dataclass(frozen=True, repr=False)
class Bins:
    """Bins of one column of numbers.

    Args:
        edges_K: (K + 1,) in the stretched scale of `stretched`.
        prior_K: (K,) the share that the first query expects in each.
    """

    edges_K: Floats
    prior_K: Floats

    def place(self, z_N: Floats) -> Ints:
        """Return (N,) the bin of each value; the outermost hold what lies beyond them."""
        return np.searchsorted(self.edges_K[1:-1], stretched(z_N), side="right").astype(np.int64)


@dataclass(frozen=True, repr=False)
class ColumnCounts:
    """What is known of one column, missing values apart.

    Args:
        counts_CK: (C, K) noisy counts per class and bin, or category.
        missing_C: (C,) noisy counts of missing values.
        prior_K: (K,) shares to fall back on where counts are all noise.
    """

    counts_CK: Floats
    missing_C: Floats
    prior_K: Floats


def stretched(z_N: Floats) -> Floats:
    """Return log((1 + z) / (1 - z)), cut to ±8: finer near both ends of -1 to 1."""
    with np.errstate(divide="ignore"):
        t_N: Floats = np.clip(2 * np.arctanh(np.clip(z_N, -1, 1)), -_END, _END)
    return t_N


def public_edges() -> Floats:
    """Return (J + 1,) the stretched edges that the first query counts between."""
    inner = np.linspace(-_INNER, _INNER, LOCATION_BINS - 1)
    return np.concatenate([[-_END], inner, [_END]])


def location_query(num_values: int, num_classes: int) -> Query:
    """Return the query for class counts, and for where the values of `num_values` columns lie."""
    bins = Bins(public_edges(), np.zeros(LOCATION_BINS))
    sizes = [num_classes] + [LOCATION_BINS] * num_values

    def contribute(patients: Patients) -> Floats:
        rows = patients.rows
        places = [
            np.where(rows.absent_NM[:, place], -1, bins.place(rows.values_NF[:, place]))
            for place in range(num_values)
        ]
        return one_hot([patients.code_N, *places], sizes)

    return Query("location", sum(sizes), math.sqrt(1 + num_values), contribute)


def placed_bins(location: Answer, num_values: int, *, num_bins: int) -> tuple[Bins, ...]:
    """Return the bins of the second query, about equally full by the first answer."""
    num_classes = len(location.sums_D) - num_values * LOCATION_BINS
    counts = split_sums(location.sums_D, [num_classes] + [LOCATION_BINS] * num_values)[1:]
    return tuple(_placed(count_J / location.deviation, num_bins) for count_J in counts)


def _placed(count_J: Floats, num_bins: int) -> Bins:
    """Return the bins of one column; counts are in standard deviations of their noise."""
    edges_J = public_edges()
    kept_J = np.where(count_J > SIGNIFICANT, count_J, 0.0)
    if count_J.max() < CERTAIN:
        kept_J[:] = 1.0
    first, last = np.flatnonzero(kept_J)[[0, -1]]
    span_J = edges_J[first : last + 2]
    level_J = np.concatenate([[0.0], np.cumsum(kept_J[first : last + 1])]) / kept_J.sum()
    even_J = (span_J - span_J[0]) / (span_J[-1] - span_J[0])
    mixed_J = (1 - UNIFORM_PART) * level_J + UNIFORM_PART * even_J
    edges_K = np.interp(np.linspace(0, 1, num_bins + 1), mixed_J, span_J)
    return Bins(edges_K, np.diff(np.interp(edges_K, span_J, level_J)))


def fitting_bins(num_patients: float, deviation: float) -> int:
    """Return how many bins the noise of the second query leaves room for."""
    room = num_patients / (NOISE_PER_BIN * deviation)
    return int(np.clip(round(min(room, MOST_BINS)), FEWEST_BINS, MOST_BINS))


def margins_query(
    bins: tuple[Bins, ...], num_categories: tuple[int, ...], num_classes: int
) -> Query:
    """Return the query for class counts, and counts of each column by class.

    Args:
        bins: (F) of the columns of numbers.
        num_categories: L of each column of categories.
        num_classes: C.
    """
    cells = _cells(bins, num_categories)
    sizes = [num_classes] + [num_classes * (size + 1) for size in cells]

    def contribute(patients: Patients) -> Floats:
        rows, places = patients.rows, []
        for place, size in enumerate(cells):
            if place < len(bins):
                cell_N = bins[place].place(rows.values_NF[:, place])
            else:
                cell_N = rows.codes_NC[:, place - len(bins)]
            cell_N = np.where(rows.absent_NM[:, place], size, cell_N)
            places.append(patients.code_N * (size + 1) + cell_N)
        return one_hot([patients.code_N, *places], sizes)

    return Query("margins", sum(sizes), math.sqrt(1 + len(cells)), contribute)


def column_counts(
    margins: Answer, bins: tuple[Bins, ...], num_categories: tuple[int, ...], num_classes: int
) -> tuple[ColumnCounts, ...]:
    """Return the answer to `margins_query`, column by column."""
    cells = _cells(bins, num_categories)
    sizes = [num_classes] + [num_classes * (size + 1) for size in cells]
    priors = [one.prior_K for one in bins] + [np.full(size, 1 / size) for size in num_categories]
    found = []
    for sums, prior_K in zip(split_sums(margins.sums_D, sizes)[1:], priors, strict=True):
        table = sums.reshape(num_classes, -1)
        found.append(ColumnCounts(table[:, :-1], table[:, -1], prior_K))
    return tuple(found)


def class_counts(location: Answer | None, margins: Answer, num_classes: int) -> Floats:
    """Return (C,) noisy patients per class, at least 1: both answers, each by its precision."""
    found_C, weight = margins.sums_D[:num_classes], margins.deviation**-2
    if location is not None:
        extra = location.deviation**-2
        found_C = (found_C * weight + location.sums_D[:num_classes] * extra) / (weight + extra)
    return np.maximum(found_C, 1.0)


def pooled_shares(counts: ColumnCounts, deviation: float) -> Floats:
    """Return (K,) shares of the bins among all patients that have a value."""
    count_K = counts.counts_CK.sum(axis=0)
    variance = len(count_K) * len(counts.counts_CK) * deviation**2
    total = count_K.sum()
    if total <= SIGNIFICANT * math.sqrt(variance):
        return counts.prior_K
    raw_K = count_K / total
    found_K = shrunk(raw_K, counts.prior_K, variance / total**2)
    return nearest_shares(found_K)


def missing_shares(counts: ColumnCounts, size_C: Floats, deviation: float) -> Floats:
    """Return (C,) the share of each class in which the column is missing.

    0 where all of it may be noise.

    Args:
        counts: of the column.
        size_C: noisy patients per class.
        deviation: of the noise on each count.
    """
    total, num_classes = size_C.sum(), len(size_C)
    share = float(np.clip(counts.missing_C.sum() / total, 0, 1))
    error = math.sqrt(num_classes * (1 + share**2)) * deviation / total
    if share <= SIGNIFICANT * error:
        return np.zeros(num_classes)
    variance_C = deviation**2 / size_C**2 + share * (1 - share) / size_C
    # One of the differences follows from the others.
    noise = variance_C.sum() * (1 - 1 / num_classes)
    found_C = shrunk(
        counts.missing_C / size_C, np.full(num_classes, share), noise, most=num_classes
    )
    return np.clip(found_C, 0.0, 1.0)


def class_shares(
    count_K: Floats, expected_K: Floats, *, num_known: float, deviation: float
) -> Floats:
    """Return (K,) shares of the bins in one class: its own counts, as far as they are not noise.

    Args:
        count_K: noisy counts of the class.
        expected_K: shares from what all classes have in common.
        num_known: patients of the class that have a value, about.
        deviation: of the noise on each count.
    """
    noise = len(count_K) * deviation**2 / num_known**2 + 1 / num_known
    return nearest_shares(shrunk(count_K / num_known, expected_K, noise))


def shrunk(raw: Floats, target: Floats, noise: float, *, most: float = 2.0) -> Floats:
    """Return `raw` pulled towards `target` as far as noise explains that they differ.

    Args:
        raw: estimates with errors.
        target: of the same shape.
        noise: expected squared length of the errors together.
        most: largest squared distance that the truth can have from the target; of shares 2.

    Source: James and Stein 1961, with the positive part and known variance; `most` is ours, and
    matters where the noise is so large that chance differences are beyond what can be true.
    """
    distance = float(((raw - target) ** 2).sum())
    signal = min(max(0.0, distance - noise), most)
    return target + (signal / (signal + noise) if signal > 0 else 0.0) * (raw - target)


def nearest_shares(raw_K: Floats) -> Floats:
    """Return (K,) the shares, none below 0 and together 1, that are nearest to `raw_K`.

    Source: Duchi et al. 2008, ICML, figure 1.
    """
    ordered = np.sort(raw_K)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(raw_K) + 1)
    last = np.flatnonzero(ordered > excess)[-1]
    cut_K = np.maximum(raw_K - excess[last], 0.0)
    found_K: Floats = cut_K / cut_K.sum()
    return found_K


def margin_of(bins: Bins, share_K: Floats) -> KnotMargin:
    """Return the quantile function of shares: even within a bin, on the stretched scale."""
    level_K = np.concatenate([[0.0], np.cumsum(share_K)])
    level_K[-1] = 1.0
    steps = np.arange(len(share_K) * STEPS_PER_BIN + 1) / STEPS_PER_BIN
    place_K = np.arange(len(level_K))
    edge_S = np.interp(steps, place_K, bins.edges_K)
    return KnotMargin(np.interp(steps, place_K, level_K), np.tanh(edge_S / 2))


def _cells(bins: tuple[Bins, ...], num_categories: tuple[int, ...]) -> list[int]:
    return [len(one.prior_K) for one in bins] + list(num_categories)
