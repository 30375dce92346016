"""A hash chain: each entry names the one before it, so none can be changed, moved or left out.

The chain alone does not show that its end was cut off, or that somebody computed all of it anew:
for that, heads are kept elsewhere (anchors). A site's head goes to the coordinator with its
replies and comes back signed. Pure functions; where the entries are kept is the site's business.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

ANCHOR_KIND = "fedward log anchor 1"
"""Part of what is signed, so that the signature is of no use under anything else."""
START = "0" * 64
"""What the first entry names as the one before it."""


@dataclass(frozen=True)
class Head:
    """The last entry of a chain: how many there are, and the hash of that one."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Row:
    """One entry as it is kept. `content` is JSON and holds `seq` as well."""

    seq: int
    content: str
    hash: str


@dataclass(frozen=True)
class Anchor:
    """What somebody else wrote down about the chain of a site."""

    site: str
    seq: int
    hash: str


@dataclass(frozen=True)
class Finding:
    """What is wrong, and with which entry."""

    kind: Literal["edited", "missing", "moved", "cut", "replaced"]
    seq: int
    text: str


def entry_hash(previous: str, content: str) -> str:
    """Return the SHA-256 (hex) of an entry after the one with the hash `previous`."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def entry_content(seq: int, **facts: Any) -> str:
    """Return the text of entry `seq`: JSON with sorted keys, equal facts have equal texts."""
    return json.dumps({"seq": seq, **facts}, sort_keys=True, allow_nan=False)


def verify_chain(rows: Iterable[Row]) -> Finding | None:
    """Return the first thing that is wrong with the entries, in the order of their numbers."""
    previous, expected = START, 1
    for row in rows:
        if row.seq != expected:
            last = row.seq - 1
            which = f"entry {expected}" if last == expected else f"entries {expected} to {last}"
            return Finding("missing", expected, f"{which} missing")
        told = _seq_of(row.content)
        if told is not None and told != row.seq:
            # Its own number is part of what was hashed: it was written for another place.
            kind: Literal["missing", "moved"] = "missing" if told == row.seq + 1 else "moved"
            text = f"entry {row.seq} was written as entry {told}: moved, or others are missing"
            return Finding(kind, row.seq, text)
        if entry_hash(previous, row.content) != row.hash:
            text = f"entry {row.seq} is not the one that was written: it, or its hash, was changed"
            return Finding("edited", row.seq, text)
        previous, expected = row.hash, expected + 1
    return None


def verify_anchor(anchor: Anchor, head: Head, hash_at: str | None) -> Finding | None:
    """Return what is wrong with a chain that somebody else saw as `anchor`.

    Args:
        anchor: what was seen.
        head: the chain's head now.
        hash_at: the hash of entry `anchor.seq` now, None where there is none.
    """
    if anchor.seq > head.seq:
        return Finding(
            "cut",
            head.seq + 1,
            f"the log ends at entry {head.seq}, but entry {anchor.seq} was seen: the end is cut "
            "off",
        )
    if anchor.seq == 0 or hash_at == anchor.hash:
        return None
    return Finding(
        "replaced",
        anchor.seq,
        f"entry {anchor.seq} is not the one that was seen: the log was written anew",
    )


def anchor_text(anchor: Anchor, *, round_number: int, run_key: str) -> str:
    """Return what the coordinator signs about a site's log: JSON with sorted keys."""
    facts = {"site": anchor.site, "seq": anchor.seq, "hash": anchor.hash, "run_key": run_key}
    return json.dumps({"kind": ANCHOR_KIND, **facts, "round": round_number}, sort_keys=True)


def read_anchor(text: str, kind: str | None = None) -> Anchor | None:
    """Return the anchor in a line of JSON; None where the line is about something else.

    Args:
        text: a line of the coordinator's log, or what it signed.
        kind: what the line must say that it is; None: any line with a site, number and hash.
    """
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or (kind is not None and found.get("kind") != kind):
        return None
    site, seq, hashed = (found.get(key) for key in ("site", "seq", "hash"))
    if isinstance(site, str) and isinstance(hashed, str) and type(seq) is int:
        return Anchor(site, seq, hashed)
    return None


def _seq_of(content: str) -> int | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    seq = found.get("seq") if isinstance(found, dict) else None
    return seq if type(seq) is int else None
