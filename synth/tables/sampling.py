"""Exactly n rows by rejection: filter, constraints and conditions in one loop that always ends.

Candidates come in blocks of fixed size, each with a generator of its own derived from (seed,
class, block). So the same seed gives the same rows, however large the parts are in which they are
taken.

A pilot estimates what share of the candidates is kept. Where that cannot give n rows within
`max_candidates`, the request ends at once: with an error, with fewer rows and a warning, or filled
with rows that the filter refused but that keep every constraint and condition.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import beta

from fedward.common.errors import ConfigError, ShortfallError
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.conditions import Conditions, all_meet
from fedward.synth.tables.rows import Bools, Candidates, Rows, no_rows

Shortfall = Literal["raise", "warn", "fill"]
PILOT_BLOCKS = 8
HOPELESS = 0.999
"""Confidence of the upper limit of the share below which a request is given up."""
CERTAIN = 1 - 1e-9
"""Confidence of the lower limit of the share above which rows are promised before they exist."""
MIN_CANDIDATES = 1 << 18
CANDIDATES_PER_ROW = 100


class ShortfallWarning(UserWarning):
    """Fewer rows than asked for were returned, because `on_shortfall` says so."""


@dataclass(frozen=True)
class Source:
    """Where candidates come from: the part of a synthesiser that the loop needs.

    Args:
        draw: returns `size` candidates of a class.
        keep: returns (N,) which candidates of a class the synthesiser's own filter keeps.
        decode: returns the table that rows stand for.
    """

    draw: Callable[[int, int, np.random.Generator], Candidates]
    keep: Callable[[int, Candidates], Bools]
    decode: Callable[[Rows], pd.DataFrame]

    @property
    def unfiltered(self) -> "Source":
        """The same candidates, with no filter of the synthesiser's own."""
        return replace(self, keep=lambda _code, drawn: np.ones(len(drawn.rows), dtype=bool))


@dataclass(frozen=True)
class Rules:
    """What every row keeps, whoever proposed it."""

    columns: Columns
    """With their constraints."""
    conditions: Conditions = ()

    def sound(self, frame: pd.DataFrame) -> Bools:
        """Return (N,) whether each row keeps every constraint."""
        kept = np.ones(len(frame), dtype=bool)
        for constraint in self.columns.constraints:
            kept &= constraint.holds(frame)
        return kept

    def name(self, code: int) -> str:
        """Return what a class is called in messages."""
        return f"class {self.columns.classes[code]!r}" if self.columns.classes else "the table"


@dataclass(frozen=True)
class Limits:
    """When the loop ends."""

    block_rows: int = 4096
    max_candidates: int | None = None
    """Per class and request; None: 262,144, or a hundred per row where that is more."""
    on_shortfall: Shortfall = "raise"
    advice: str = "another setting"
    """What to try where the synthesiser's own filter refuses too many."""

    def most_candidates(self, num_rows: int) -> int:
        """Return how many candidates may be drawn for a request of `num_rows`."""
        if self.max_candidates is None:
            return max(MIN_CANDIDATES, CANDIDATES_PER_ROW * num_rows)
        return self.max_candidates


@dataclass(frozen=True)
class Acceptance:
    """What became of the candidates of one class."""

    requested: int
    returned: int
    candidates: int
    by_filter: int
    """Kept by the synthesiser's own filter."""
    by_constraints: int
    """Of those, kept by every constraint."""
    by_conditions: int
    """Of those, kept by every condition."""
    filled: int = 0
    """Of the returned rows, how many came without the filter."""

    @property
    def rate(self) -> float | None:
        """Share of candidates that were kept; None before the first."""
        return self.by_conditions / self.candidates if self.candidates else None


class ClassStream:
    """The reproducible stream of accepted rows of one class: `promise` first, then `take`.

    Args:
        source: of the candidates.
        code: the class, as its place in `Columns.classes`; 0 where there is no label.
        rules: what every row has to keep.
        limits: when it gives up.
        key: of this sample's random numbers; `code` and the number of the block are added.
    """

    def __init__(
        self,
        source: Source,
        code: int,
        *,
        rules: Rules,
        limits: Limits,
        key: tuple[int, ...],
    ) -> None:
        self._source, self._code, self._rules = source, code, rules
        self._limits, self._key = limits, key
        self._waiting = _Queue(
            source.decode(no_rows(len(rules.columns.continuous), len(rules.columns.categorical)))
        )
        self._block = 0
        self._requested = self._returned = 0
        self._counts = np.zeros(4, dtype=np.int64)  # candidates, filter, constraints, conditions
        self._unfiltered: ClassStream | None = None
        """Where further rows come from once this stream has fallen short and is to be filled."""

    @property
    def acceptance(self) -> Acceptance:
        """What became of the candidates so far; those that only filled up are not among them."""
        filled = self._unfiltered.acceptance.returned if self._unfiltered else 0
        drawn, kept, sound, met = map(int, self._counts)
        returned = self._returned + filled
        return Acceptance(self._requested, returned, drawn, kept, sound, met, filled)

    def promise(self, num_rows: int) -> int:
        """Return how many of `num_rows` rows the stream will give.

        Draws a pilot, and goes on until it is certain either way.

        Raises:
            ShortfallError: it cannot give them, and `on_shortfall` is `raise`; or not even
                without the filter.
            ConfigError: `max_candidates` is less than one block.
        """
        self._requested = num_rows
        if num_rows and not self._may_go_on:
            raise ConfigError(
                f"max_candidates: given {self._limits.max_candidates}, expected at least "
                f"{self._limits.block_rows}, which are drawn at once"
            )
        while self._block < PILOT_BLOCKS and len(self._waiting) < num_rows and self._may_go_on:
            self._advance()
        while (within := self._is_within_reach(num_rows)) is None and self._may_go_on:
            self._advance()
        return num_rows if within else len(self._waiting) + self._fall_short(num_rows)

    def take(self, num_rows: int) -> pd.DataFrame:
        """Return the next `num_rows` of the promised rows.

        Raises:
            ShortfallError: `max_candidates` were drawn and they do not suffice, against all odds.
        """
        while len(self._waiting) < num_rows and self._unfiltered is None:
            if not self._may_go_on:
                raise ShortfallError(self._story(num_rows - len(self._waiting)))
            self._advance()
        own = self._waiting.pop(min(num_rows, len(self._waiting)))
        self._returned += len(own)
        if self._unfiltered is None or len(own) == num_rows:
            return own
        return pd.concat([own, self._unfiltered.take(num_rows - len(own))], ignore_index=True)

    @property
    def _may_go_on(self) -> bool:
        most = self._limits.most_candidates(self._requested)
        return bool(self._counts[0] + self._limits.block_rows <= most)

    def _advance(self) -> None:
        """Draw one block, and keep what passes."""
        rng = np.random.default_rng([*self._key, self._code, self._block])
        self._block += 1
        drawn = self._source.draw(self._code, self._limits.block_rows, rng)
        kept = drawn.rows.take(self._source.keep(self._code, drawn))
        frame = self._source.decode(kept)
        sound = frame[self._rules.sound(frame)]
        met = sound[all_meet(self._rules.conditions, sound)]
        self._counts += (len(drawn.rows), len(kept), len(sound), len(met))
        self._waiting.push(met)

    def _is_within_reach(self, num_rows: int) -> bool | None:
        """Return whether `max_candidates` give so many rows; None: not certain yet.

        By the Clopper-Pearson limits of the share of candidates that are kept.
        """
        need = num_rows - len(self._waiting)
        if need <= 0:
            return True
        drawn, kept = int(self._counts[0]), int(self._counts[3])
        left = self._limits.most_candidates(num_rows) - drawn
        left -= left % self._limits.block_rows
        upper = 1.0 if kept == drawn else float(beta.ppf(HOPELESS, kept + 1, drawn - kept))
        if math.ceil(need / upper) > left:
            return False
        lower = 0.0 if kept == 0 else float(beta.ppf(1 - CERTAIN, kept, drawn - kept + 1))
        # Six standard deviations of the number kept, were the share at its lower limit.
        expected = lower * left
        return True if expected - 6 * math.sqrt(expected) > need else None

    def _fall_short(self, num_rows: int) -> int:
        """Return how many of the rows that are missing can be had in another way."""
        if self._limits.on_shortfall == "raise":
            raise ShortfallError(self._story(num_rows - len(self._waiting)))
        if self._limits.on_shortfall == "warn":
            while self._may_go_on and len(self._waiting) < num_rows:
                self._advance()
            if missing := num_rows - len(self._waiting):
                warnings.warn(self._story(missing), ShortfallWarning, stacklevel=2)
            return 0
        self._unfiltered = ClassStream(
            self._source.unfiltered,
            self._code,
            rules=self._rules,
            limits=replace(self._limits, on_shortfall="raise"),
            key=(*self._key, 1),
        )
        return self._unfiltered.promise(num_rows - len(self._waiting))

    def _story(self, missing: int) -> str:
        drawn, filtered, sound, met = map(int, self._counts)
        stages = (("filter", drawn, filtered), ("constraints", filtered, sound),
                  ("conditions", sound, met))  # fmt: skip
        told = ", ".join(f"{name} kept {out:,} of {into:,}" for name, into, out in stages)
        tightest = min(stages, key=lambda one: one[2] / one[1] if one[1] else 1.0)[0]
        advice = _ADVICE.get(tightest, self._limits.advice)
        return (
            f"{self._rules.name(self._code)}: {missing:,} of {self._requested:,} rows are missing "
            f"after {drawn:,} candidates ({told}). Try {advice}, or a larger "
            "max_candidates"
        )


_ADVICE = {
    "constraints": "constraints that the rows themselves keep",
    "conditions": "wider conditions",
}


class _Queue:
    """Rows that wait to be taken, in order."""

    def __init__(self, empty: pd.DataFrame) -> None:
        self._parts = [empty]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, frame: pd.DataFrame) -> None:
        self._parts.append(frame)
        self._size += len(frame)

    def pop(self, num_rows: int) -> pd.DataFrame:
        """Return the first `num_rows` rows, which must be there."""
        taken: list[pd.DataFrame] = []
        missing = num_rows
        while len(self._parts) > 1 and len(self._parts[0]) <= missing:
            taken.append(self._parts.pop(0))
            missing -= len(taken[-1])
        taken.append(self._parts[0].iloc[:missing])
        self._parts[0] = self._parts[0].iloc[missing:]
        self._size -= num_rows
        return pd.concat(taken, ignore_index=True)
