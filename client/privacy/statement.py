"""What a site's ledger says, for people: spent, left, by which study, and what it is worth."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Book, Budget, Reserved
from fedward.common.privacy.accounting import Segment, epsilon_of, merged, rounds_left
from fedward.common.privacy.claim import PrivacyClaim, dp_sgd_claim
from fedward.common.privacy.closing import Closing, close


@dataclass(frozen=True)
class StudySpent:
    """What one study has spent by itself; together several cost less than the sum."""

    study: str
    num_rounds: int
    """That were reserved, also those of which no result left."""
    num_released: int
    """Of which a result left."""
    epsilon: float
    last_used: str


@dataclass(frozen=True)
class DataSetSpent:
    """What was spent on the patients of one data set."""

    name: str
    num_patients: int | None
    """None: their hashes were removed, or the schema names no patients."""
    last_used: str
    claim: PrivacyClaim
    """With the epsilon by which rounds are allowed."""
    left: float | None
    """Of the site's budget; None: it has none."""
    rounds_left: int | None
    """Of the last setting; None: the site has no budget."""
    setting: tuple[Segment, ...]
    """What the last round did."""
    studies: tuple[StudySpent, ...]
    closing: Closing | None = None
    """None: it was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "claim": self.claim.to_dict()}


def statements(
    book: Book, known: Mapping[str, DataSet], budget: Budget, *, closing: bool = True
) -> tuple[DataSetSpent, ...]:
    """Return what was spent on each data set, the last used first.

    Args:
        book: the site's ledger.
        known: data sets whose patients are known, by name.
        budget: of the site.
        closing: whether the last used data set gets its closing statement, which takes seconds.
    """
    newest = {one.data_set: one for one in book.reserved}
    found = sorted(newest.values(), key=lambda one: -one.seq)
    return tuple(
        _statement(book, known, budget, last=last, closing=closing and last is found[0])
        for last in found
    )


def _statement(
    book: Book, known: Mapping[str, DataSet], budget: Budget, *, last: Reserved, closing: bool
) -> DataSetSpent:
    name = last.data_set
    reserved = [one for one in book.reserved if _may_share(one.data_set, name, known)]
    steps = _steps(reserved)
    delta = budget.delta or last.planned.delta
    spent = epsilon_of(steps, delta)
    seeded = any(one.planned.is_reproducible for one in reserved)
    limit, left, more = budget.epsilon, None, None
    if limit is not None:
        left = max(0.0, limit - spent)
        more = rounds_left(steps, last.planned.segments, epsilon=limit, delta=delta)
    return DataSetSpent(
        name=name,
        num_patients=known[name].num_patients if name in known else None,
        last_used=last.time,
        claim=dp_sgd_claim(spent, delta, is_reproducible=seeded),
        left=left,
        rounds_left=more,
        setting=last.planned.segments,
        studies=_studies(reserved, book.released, delta),
        closing=close(steps, delta) if closing else None,
    )


def _studies(
    reserved: list[Reserved], released: frozenset[int], delta: float
) -> tuple[StudySpent, ...]:
    names = dict.fromkeys(one.planned.study for one in reserved)
    found = []
    for name in names:
        own = [one for one in reserved if one.planned.study == name]
        left = sum(one.seq in released for one in own)
        epsilon = epsilon_of(_steps(own), delta)
        found.append(StudySpent(name, len(own), left, epsilon, own[-1].time))
    return tuple(found)


def _steps(reserved: Iterable[Reserved]) -> tuple[Segment, ...]:
    return merged(step for one in reserved for step in one.planned.segments)


def _may_share(one: str, other: str, known: Mapping[str, DataSet]) -> bool:
    if one == other or one not in known or other not in known:
        return True
    return known[one].may_share_a_patient(known[other])
