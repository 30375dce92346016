"""What every synthesiser offers, in scikit-learn's manner: fit, sample, get_params, clone, save.

A subclass says how rows are proposed (`_fit_rows`, `_draw`) and which of its own proposals it
refuses (`_keep`); exact numbers, constraints, conditions, seeds and chunks are the loop's business
(`sampling.py`), missing values, bounds and decimals the encoder's (`encoder.py`).
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.checks import check_table, class_codes, columns_for, widened
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.conditions import Conditions, conditions_of
from fedward.synth.tables.counts import ClassCounts, class_counts_of
from fedward.synth.tables.encoder import Encoder, Form, learn_encoder
from fedward.synth.tables.interleave import interleaved
from fedward.synth.tables.reading import classes_of
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Acceptance, ClassStream, Limits, Rules, Shortfall, Source

Progress = Callable[[int, int], None]
"""Called with the rows done and all rows."""


@dataclass(frozen=True)
class Request:
    """What is asked of a fitted synthesiser."""

    counts: Mapping[int, int]
    """Rows per class code, sorted by code."""
    conditions: Conditions
    seed: int


class Synthesiser(BaseEstimator, ABC):  # type: ignore[misc] # scikit-learn has no types
    """Learns a table and makes rows like it.

    Every subclass names its parameters in its constructor and shares these:

    Args:
        columns: what the table holds; a schema, or None to read it off the rows (`detect.py`).
        min_class_size: fewest training rows of each class, 2 or more; fewer are refused.
        max_candidates: most candidates per class and request; None: 262,144, or a hundred per row
            where that is more.
        on_shortfall: what happens where they do not suffice: `raise`, `warn` (fewer rows), or
            `fill` (rows that the filter refused, but that keep constraints and conditions).
        seed: of what is random in `fit`, 0 or more.
    """

    holds_patients: ClassVar[bool] = True
    """Whether a fitted object contains rows of its training table, as they were or nearly."""
    least_class_size: ClassVar[int] = 2
    """Of `min_class_size`."""
    block_rows: ClassVar[int] = 4096
    """Candidates that are drawn at once; a part of what a seed means."""
    advice: ClassVar[str] = "fewer neighbours, vote='prior', or on_shortfall='fill'"
    """What to try where its own filter refuses too many."""

    columns: Columns | TableSchema | None
    min_class_size: int
    max_candidates: int | None
    on_shortfall: Shortfall
    seed: int

    columns_: Columns
    encoder_: Encoder
    class_sizes_: tuple[int, ...]

    @property
    def form(self) -> Form:
        """How tables are encoded."""
        return Form()

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn the rows of `X` and return self.

        Args:
            X: (N) rows; the label is one of its columns, or `y`.
            y: (N,) classes, where they are not in `X`; named after the series, or `label`.

        Raises:
            SiteDataError: the rows cannot be used: a class that is too small, a missing label, an
                identifier, a column of mixed types, a value out of range; names the column.
            ConfigError: a parameter cannot be used.
        """
        self._check_parameters()
        columns, table = columns_for(self.columns, X, y)
        columns = widened(columns, table)
        check_table(columns, table, min_class_size=self.min_class_size)
        self.columns_ = columns
        code_N = class_codes(columns, table)
        sizes = np.bincount(code_N, minlength=max(len(columns.classes), 1))
        self.class_sizes_ = tuple(map(int, sizes))
        self.encoder_ = self._encoder(columns, table)
        rows = self.encoder_.encode(table)
        self._fit_rows(rows, code_N, np.random.default_rng(self.seed))
        return self

    def sample(
        self,
        n: int | None = None,
        *,
        class_counts: ClassCounts = "original",
        conditions: Mapping[str, Any] | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Return exactly the rows that are asked for, with the label's column last.

        Args:
            n: rows; None: as many as were learned, or as `class_counts` add up to.
            class_counts: shares of the training rows, equal shares, or rows per class.
            conditions: column names with the value, or the (lowest, highest) pair, that all rows
                have.
            seed: the same seed gives the same rows; None: another one each time. Whoever knows
                the seed and the model knows the noise of every row: it is not for publication.
            progress: called after each part.

        Raises:
            ShortfallError: they cannot be had, and `on_shortfall` is `raise`.
            ConfigError: n, a class, a condition or the seed cannot be used.
        """
        sampling = self.sampling(n, class_counts=class_counts, conditions=conditions, seed=seed)
        return pd.concat(list(sampling.chunks(progress=progress)), ignore_index=True)

    def sampling(
        self,
        n: int | None = None,
        *,
        class_counts: ClassCounts = "original",
        conditions: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> "Sampling":
        """Return a request whose rows come in chunks, with its report of acceptance.

        Args and errors as `sample`.
        """
        if not hasattr(self, "encoder_"):
            raise NotFittedError(f"this {type(self).__name__} has learned nothing yet; call fit")
        if seed is None:
            seed = secrets.randbits(63)
        _check_seed(seed)
        counts = class_counts_of(n, class_counts, self.columns_, self.class_sizes_)
        return Sampling(
            self, Request(counts, conditions_of(self.columns_, conditions or {}), int(seed))
        )

    def save(self, path: Path | str, *, facts: Mapping[str, Any] | None = None) -> None:
        """Write what was learned to a file (`artefact.py`), for your eyes only if it has patients.

        Args:
            path: of the file; one that is there is replaced.
            facts: what else its header tells, as JSON can hold it.

        Raises:
            StorageError: it cannot be written, or the method cannot be stored.
        """
        from fedward.synth.tables.artefact import save

        save(self, Path(path), facts=facts)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Return what `save` wrote; nothing in the file is executed.

        Raises:
            StorageError: it is no such file, damaged, or of another method.
        """
        from fedward.synth.tables.artefact import load_as

        return load_as(cls, Path(path))

    def _check_parameters(self) -> None:
        """Refuse parameters that cannot be used; subclasses add theirs.

        Raises:
            ConfigError: one is out of range.
        """
        if self.min_class_size < self.least_class_size:
            raise ConfigError(
                f"min_class_size: given {self.min_class_size}, expected {self.least_class_size} or "
                "more"
            )
        if self.on_shortfall not in get_args(Shortfall):
            raise ConfigError(
                f"on_shortfall: given {self.on_shortfall!r}, expected "
                f"{', '.join(get_args(Shortfall))}"
            )
        _check_seed(self.seed)

    def _encoder(self, columns: Columns, table: pd.DataFrame) -> Encoder:
        """Return how `table` is encoded; learned from its rows, where nothing else is said."""
        return learn_encoder(columns, self.form, table)

    @abstractmethod
    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        """Learn `rows` of the classes `code_N` (0 everywhere without a label)."""

    @abstractmethod
    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        """Return `size` candidates of a class."""

    def _keep(self, code: int, drawn: Candidates) -> Bools:
        """Return (N,) which candidates the method itself accepts."""
        return np.ones(len(drawn.rows), dtype=bool)

    def _state(self) -> dict[str, Any]:
        """Return what was learned, by attribute, as `codec.py` can hold it.

        All attributes that are no parameters; override it where one can be made from the others.
        """
        parameters = self.get_params(deep=False)
        return {name: value for name, value in vars(self).items() if name not in parameters}

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `_state` returned."""
        for name, value in state.items():
            setattr(self, name, value)


class Sampling:
    """One request to a fitted synthesiser; its rows can be taken once."""

    def __init__(self, model: Synthesiser, request: Request) -> None:
        self._request = request
        self._columns = model.columns_
        source = Source(model._draw, model._keep, model.encoder_.decode)
        rules = Rules(model.columns_, request.conditions)
        limits = Limits(model.block_rows, model.max_candidates, model.on_shortfall, model.advice)
        self._streams = {
            code: ClassStream(
                source,
                code,
                rules=rules,
                limits=limits,
                key=(request.seed,),
            )
            for code in request.counts
        }
        self.counts = {code: self._streams[code].promise(n) for code, n in request.counts.items()}
        """Rows per class code that will come: fewer than asked for only under `warn`."""

    def chunks(
        self, *, chunk_rows: int = 65_536, progress: Progress | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows in tables of at most `chunk_rows`; at least one, which may be empty."""
        if chunk_rows < 1:
            raise ConfigError(f"chunk_rows: given {chunk_rows}, expected 1 or more")
        total, done = sum(self.counts.values()), 0
        for frame, code_N in interleaved(
            self._streams, self.counts, seed=self._request.seed, chunk_rows=chunk_rows
        ):
            if self._columns.label is not None:
                frame[self._columns.label] = classes_of(self._columns, code_N)
            done += len(frame)
            if progress is not None:
                progress(done, total)
            yield frame

    @property
    def acceptance(self) -> dict[Any, Acceptance]:
        """Per class (`rows` without a label) what became of its candidates so far."""
        names = self._columns.classes or ("rows",)
        return {names[code]: stream.acceptance for code, stream in self._streams.items()}


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed: given {seed!r}, expected a whole number from 0")
