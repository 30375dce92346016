"""KDE-KNN: a kernel density per class, and nearest neighbours that refuse what looks of another.

Macias-Fassio, Morales, Pruenza and Fierrez 2025, "Privacy-Preserving Tabular Data Generation:
Application to Sepsis Detection", ICPR 2024, LNCS 15312:75-89, section 3.5: sample the density of
each class, keep a row if the k nearest training rows predict its class, repeat.

What the paper leaves open is set as its numbers suggest in the preset `paper` (h = 1: its mean
distance to the closest record is the noise of that width in 27 columns; k = 5, scikit-learn's
default). Two things in it are repaired in `guarded`:

- On imbalanced data a plain vote refuses nearly the whole minority class, and with larger k the
  loop never ends: the vote is held against the classes' shares instead. Either way the loop here
  ends, with rows or an error (`sampling.py`).
- A row's own parent is mostly its nearest neighbour, and votes for it: it is left out.

**It is not private**, although the title says so: see `kde.py`. The filter only looks at the
patients once more.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.bandwidth import Rule
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Missing
from fedward.synth.tables.kde import KDE
from fedward.synth.tables.kde_settings import FILTERS, Covariance, FilterSettings, Preset, resolved
from fedward.synth.tables.knn import Embedding, Neighbours, Vote, elect
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows, concatenate
from fedward.synth.tables.sampling import Shortfall
from fedward.synth.tables.scale import Transform


class KDEKNN(KDE):
    """Kernel densities filtered by nearest neighbours; see the module.

    Args:
        columns, bandwidth, covariance, transform, missing, bounded, redraw, min_mask_size,
        min_class_size, max_candidates, on_shortfall, seed: as `KDE`.
        preset: what parameters that are None are set to. `guarded`: that of `KDE`, and the vote
            against the classes' shares without the parent; `paper`: as published, a plain vote of
            all. Both k = 5.
        k: how many training rows vote.
        vote: `majority`: most votes win, the first class where equal; `prior`: most votes for the
            class's share of the training rows; `distance`: each vote weighs 1 / distance.
        exclude_parent: whether a candidate's own parent has no vote.
        max_reference: most training rows that may vote, drawn at random with the classes' shares;
            None: all. Fewer are faster and **change which rows are kept**.

    Attributes:
        filter_: k, vote and exclude_parent with the preset's values in place.
        settings_, bandwidths_, near_copies_: as `KDE`.
    """

    filter_: FilterSettings
    _voters: Ints
    """Places of the rows that vote, the classes one after the other."""

    def __init__(  # noqa: PLR0913 - scikit-learn's manner: every parameter by name
        self,
        columns: Columns | TableSchema | None = None,
        *,
        preset: Preset = "guarded",
        k: int | None = None,
        vote: Vote | None = None,
        exclude_parent: bool | None = None,
        max_reference: int | None = None,
        bandwidth: Rule | float | None = None,
        covariance: Covariance | None = None,
        transform: Transform | None = None,
        missing: Missing | None = None,
        bounded: bool | None = None,
        redraw: float | Literal["matched"] | None = None,
        min_mask_size: int | None = None,
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(
            columns,
            preset=preset,
            bandwidth=bandwidth,
            covariance=covariance,
            transform=transform,
            missing=missing,
            bounded=bounded,
            redraw=redraw,
            min_mask_size=min_mask_size,
            min_class_size=min_class_size,
            max_candidates=max_candidates,
            on_shortfall=on_shortfall,
            seed=seed,
        )
        self.k = k
        self.vote = vote
        self.exclude_parent = exclude_parent
        self.max_reference = max_reference

    def _check_parameters(self) -> None:
        super()._check_parameters()
        resolved(FILTERS, self)
        if self.max_reference is not None and self.max_reference < 1:
            raise ConfigError(f"max_reference: given {self.max_reference}, expected 1 or more")

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        self.filter_ = resolved(FILTERS, self)
        if len(self.class_sizes_) < 2:
            raise ConfigError("KDE-KNN filters by class, and the table has no label; use KDE")
        super()._fit_rows(rows, code_N, rng)
        self._voters = _chosen(self.class_sizes_, self.max_reference, rng)
        others = len(self._voters) - int(self.filter_.exclude_parent)
        if self.filter_.k > others:
            raise ConfigError(f"k: {self.filter_.k} neighbours, but only {others} rows may vote")
        self._prepare()

    def _keep(self, code: int, drawn: Candidates) -> Bools:
        without_N = None
        if self.filter_.exclude_parent:
            assert drawn.parent_N is not None
            without_N = self._place_of[self._starts[code] + drawn.parent_N]
        votes_NK = self._neighbours.votes(self._embedding.points(drawn.rows), without_N)
        kept_N: Bools = elect(votes_NK, self.filter_.vote, self._share_K) == code
        return kept_N

    def _prepare(self) -> None:
        """Set up what follows from the rows of the kernels and from `_voters`."""
        sizes = [len(kernel.rows) for kernel in self._kernels]
        rows = concatenate([kernel.rows for kernel in self._kernels])
        code_N = np.repeat(np.arange(len(sizes)), sizes)
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._place_of = np.full(len(rows), -1)
        self._place_of[self._voters] = np.arange(len(self._voters))
        self._embedding = Embedding.of(rows, self._num_categories)
        self._neighbours = Neighbours(
            self._embedding.points(rows.take(self._voters)),
            code_N[self._voters],
            num_classes=len(sizes),
            k=self.filter_.k,
            by_distance=self.filter_.vote == "distance",
        )
        self._share_K = np.bincount(code_N[self._voters]) / len(self._voters)

    def _state(self) -> dict[str, Any]:
        prepared = ("_starts", "_place_of", "_embedding", "_neighbours", "_share_K")
        return {name: value for name, value in super()._state().items() if name not in prepared}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._prepare()


def _chosen(sizes: tuple[int, ...], most: int | None, rng: np.random.Generator) -> Ints:
    """Return the sorted places of at most `most` rows, at least one of each class."""
    total = sum(sizes)
    if most is None or most >= total:
        return np.arange(total)
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        start + rng.choice(size, max(1, size * most // total), replace=False)
        for start, size in zip(starts, sizes, strict=True)
    ]
    return np.sort(np.concatenate(parts))
