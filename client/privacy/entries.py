"""What is written in a site's privacy ledger, as dataclasses and as text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedward.common.chain import Row
from fedward.common.errors import ConfigError
from fedward.common.privacy.accounting import Segment
from fedward.common.privacy.checks import check_delta, check_epsilon

OPENED, RESERVED, RELEASED = "opened", "reserved", "released"


@dataclass(frozen=True)
class Budget:
    """The most that a site ever spends on a patient, over all runs and studies.

    Raises:
        ConfigError: a value is out of range, or epsilon stands without delta.
    """

    epsilon: float | None = None
    """`limits.epsilon` of site.yaml; None: what is spent is counted, and nothing refused."""
    delta: float | None = None
    """`limits.delta` of site.yaml."""

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            check_epsilon(self.epsilon)
            if self.delta is None:
                raise ConfigError(
                    "limits.delta: not given; limits.epsilon means nothing without it"
                )
        if self.delta is not None:
            check_delta(self.delta)


@dataclass(frozen=True)
class Planned:
    """What is about to be done with a site's patients.

    Raises:
        ConfigError: delta is out of range, or nothing would be done.
    """

    message_id: str
    """Of the message that asks; for a second thing in one message, with a suffix."""
    run_key: str
    """The training, as in the site's other tables."""
    study: str
    """What the run belongs to, for people: its name."""
    round_number: int
    segments: tuple[Segment, ...]
    """All steps that are planned: they count even if the training stops earlier."""
    delta: float
    """Of the run."""
    purpose: str = "training"
    """Or the statistic that is released."""
    is_reproducible: bool = False
    """Whether the noise follows from a seed, as in simulations."""

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if not self.message_id or not self.segments:
            raise ConfigError("privacy: a round without a message or without steps is not counted")

    def facts(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "message": self.message_id,
            "run_key": self.run_key,
            "study": self.study,
            "round": self.round_number,
            "segments": [
                [one.noise_multiplier, one.sample_rate, one.num_steps] for one in self.segments
            ],
            "delta": self.delta,
            "purpose": self.purpose,
            "is_reproducible": self.is_reproducible,
        }


@dataclass(frozen=True)
class Reserved:
    """A reservation as the ledger holds it."""

    seq: int
    time: str
    """In UTC; for people: nothing is decided by it."""
    attempt: int
    """The how-manieth of its message."""
    data_set: str
    """Its name."""
    planned: Planned


@dataclass(frozen=True)
class Book:
    """The whole ledger of a site, in order."""

    site: str
    num_entries: int
    last_hash: str
    reserved: tuple[Reserved, ...]
    released: frozenset[int]
    """The `seq` of the reservations of which the result has left."""

    def newest_of(self, message_id: str) -> Reserved | None:
        """Return the last reservation of a message."""
        found = (one for one in reversed(self.reserved) if one.planned.message_id == message_id)
        return next(found, None)


def read_book(site: str, rows: Sequence[Row], start: str) -> Book:
    """Return what the entries say. Their chain has been verified.

    Args:
        site: whose they must be.
        rows: in order.
        start: the hash before the first one.

    Raises:
        ValueError: an entry is not one of this ledger.
    """
    reserved, released = [], set()
    for row in rows:
        facts = json.loads(row.content)
        if facts.get("site") != site:
            raise ValueError(f"entry {row.seq} is of another site")
        if (facts.get("event") == OPENED) != (row.seq == 1):
            raise ValueError("the first entry is not that of a ledger that was opened")
        if facts["event"] == RESERVED:
            reserved.append(_reserved(facts))
        elif facts["event"] == RELEASED:
            released.add(int(facts["reservation"]))
    last = rows[-1].hash if rows else start
    return Book(site, len(rows), last, tuple(reserved), frozenset(released))


def _reserved(facts: dict[str, Any]) -> Reserved:
    try:
        planned = Planned(
            message_id=facts["message"],
            run_key=facts["run_key"],
            study=facts["study"],
            round_number=facts["round"],
            segments=tuple(Segment(*one) for one in facts["segments"]),
            delta=facts["delta"],
            purpose=facts["purpose"],
            is_reproducible=facts["is_reproducible"],
        )
        return Reserved(facts["seq"], facts["time"], facts["attempt"], facts["data_set"], planned)
    except (KeyError, TypeError, ConfigError) as error:
        raise ValueError(f"entry {facts.get('seq')} cannot be read") from error
