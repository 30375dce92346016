"""Everything that a differentially private copula asks about its patients, in one budget.

After `release` the patients are not looked at again.

Legend: F columns of numbers, A of categories, M = F + A, D scores, C classes, K bins, G gaps.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedward.synth.tables.columns import Columns
from fedward.synth.tables.dp_margins import (
    Bins,
    ColumnCounts,
    class_counts,
    column_counts,
    fitting_bins,
    location_query,
    margins_query,
    missing_shares,
    placed_bins,
    pooled_shares,
)
from fedward.synth.tables.dp_moments import (
    CodeScores,
    Scores,
    code_scores,
    correlation_query,
    means_query,
)
from fedward.synth.tables.dp_noise import Below
from fedward.synth.tables.dp_queries import Answer, Patients, Query, ask
from fedward.synth.tables.rows import Floats

SHARES: Mapping[str, float] = {
    "location": 0.15,
    "margins": 0.3,
    "means": 0.4,
    "correlation": 0.15,
}
"""Of the squared mu; where a query has nothing to ask (one class, one column), the others get it.
By trial on PhysioNet 2019: class means matter most for models that are trained on the rows."""


@dataclass(frozen=True, repr=False)
class Learned:
    """What the answers say, as far as all classes are concerned.

    Args:
        size_C: (C,) noisy patients per class, at least 1.
        bins: (F) of the columns of numbers.
        counts: (M) of all columns.
        pooled: (M) shares of bins or categories among all patients.
        missing_MC: (M, C) shares of missing values.
        scores: how rows become vectors.
    """

    size_C: Floats
    bins: tuple[Bins, ...]
    counts: tuple[ColumnCounts, ...]
    pooled: tuple[Floats, ...]
    missing_MC: Floats
    scores: Scores


class Asking(Protocol):
    """Gives answers to queries, each once."""

    asked: list[tuple[Query, Answer]]

    def ask(self, query: Query, patients: Patients, share: float) -> Answer:
        """Return the answer to `query`, for this share of the squared mu."""


class Account:
    """A budget, and what it was spent on.

    Args:
        mu: all of it, in Gaussian differential privacy.
        below: source of the noise.
    """

    def __init__(self, mu: float, below: Below) -> None:
        self._mu, self._below = mu, below
        self.asked: list[tuple[Query, Answer]] = []

    def ask(self, query: Query, patients: Patients, share: float) -> Answer:
        """Return the answer to `query`, for this share of the squared mu."""
        answer = ask(query, patients, mu=self._mu * math.sqrt(share), below=self._below)
        self.asked.append((query, answer))
        return answer


class Replay:
    """Gives the answers of an earlier fit again: tells what was asked, and looks at nobody."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = {answer.name: answer for answer in answers}
        self.asked: list[tuple[Query, Answer]] = []

    def ask(self, query: Query, patients: Patients, share: float) -> Answer:
        """Return the earlier answer to `query`."""
        answer = self._answers[query.name]
        self.asked.append((query, answer))
        return answer


def release(
    columns: Columns, patients: Patients, account: Asking, *, share: float = 1.0
) -> Learned:
    """Return what is learned of margins; the account then also holds means and correlation.

    Args:
        columns: all with public bounds.
        patients: in the form of `encoder.public_encoder`.
        account: pays.
        share: of the squared mu, for all queries here together.
    """
    num_values, num_classes = len(columns.continuous), max(len(columns.classes), 1)
    categories = tuple(len(column.categories) for column in columns.categorical)
    shares = _shares(columns, share)
    location = None
    bins: tuple[Bins, ...] = ()
    if num_values:
        location = account.ask(
            location_query(num_values, num_classes), patients, shares["location"]
        )
        # The noise that the next answer will have: that of this one, for another part of mu.
        deviation = location.deviation * math.sqrt(shares["location"] / shares["margins"])
        num_patients = float(np.maximum(location.sums_D[:num_classes], 1.0).sum())
        bins = placed_bins(location, num_values, num_bins=fitting_bins(num_patients, deviation))
    margins = account.ask(margins_query(bins, categories, num_classes), patients, shares["margins"])
    size_C = class_counts(location, margins, num_classes)
    counts = column_counts(margins, bins, categories, num_classes)
    learned = _learned(size_C, bins, counts, margins.deviation)
    if "means" in shares:
        account.ask(means_query(learned.scores, num_classes), patients, shares["means"])
    if "correlation" in shares:
        account.ask(correlation_query(learned.scores), patients, shares["correlation"])
    return learned


def _shares(columns: Columns, total: float) -> dict[str, float]:
    """Return the share of each query that has something to ask."""
    needed = {
        "location": len(columns.continuous) > 0,
        "margins": True,
        "means": len(columns.classes) > 1,
        "correlation": len(columns) > 1,
    }
    kept = {name: share for name, share in SHARES.items() if needed[name]}
    return {name: total * share / sum(kept.values()) for name, share in kept.items()}


def _learned(
    size_C: Floats, bins: tuple[Bins, ...], counts: tuple[ColumnCounts, ...], deviation: float
) -> Learned:
    pooled = tuple(pooled_shares(one, deviation) for one in counts)
    missing_MC = np.stack([missing_shares(one, size_C, deviation) for one in counts])
    missing_M = missing_MC @ size_C / size_C.sum()
    gap_column_G = np.flatnonzero(missing_M > 0)
    gaps: tuple[CodeScores, ...] = tuple(
        code_scores(np.array([1 - missing_M[column], missing_M[column]])) for column in gap_column_G
    )
    scores = Scores(
        bins,
        pooled[: len(bins)],
        tuple(code_scores(one) for one in pooled[len(bins) :]),
        gaps,
        gap_column_G,
        np.concatenate([1 - missing_M, np.ones(len(gaps))]),
    )
    return Learned(size_C, bins, counts, pooled, missing_MC, scores)
