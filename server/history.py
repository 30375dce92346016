"""`history.jsonl`: one line per round and site, and one per round for the federation.

Bytes are counted at the coordinator: sent is coordinator to site. Absent keys are absent.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedward.common.errors import StorageError

Phase = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Entry:
    """One line of the history; `site` None is the federation."""

    round_number: int
    phase: Phase
    site: str | None = None
    status: Literal["ok", "rejected", "failed", "skipped"] = "ok"
    num_examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    cme: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By layer: `log_mag`, `rho`, `map_cos`, `top1` of a site, where defined and let out."""
    update: Mapping[str, float] = field(default_factory=dict)
    """Of a site `influence` and `cosine`; of either `norm_ratio` (`server.monitoring`)."""
    epsilon: float | None = None
    """What a site has spent in this run, with this round; of the federation: what each has."""
    privacy: Mapping[str, float] = field(default_factory=dict)
    """What a site told of its noise: `noise_multiplier`, `sample_rate`, `signal_to_noise` ..."""
    saturated: bool | None = None
    """Whether the weights have stopped going anywhere; None where nobody can tell."""
    reason: str | None = None

    def to_json(self) -> str:
        """Return the line, without the keys that do not apply."""
        line: dict[str, Any] = {
            "round": self.round_number,
            "site": self.site,
            "phase": self.phase,
            "status": self.status,
        }
        optional = {
            "num_examples": self.num_examples,
            "metrics": dict(self.metrics) or None,
            "seconds": None if self.seconds is None else round(self.seconds, 6),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "cme": {layer: dict(figures) for layer, figures in self.cme.items()} or None,
            "update": dict(self.update) or None,
            "epsilon": self.epsilon,
            "privacy": dict(self.privacy) or None,
            "saturated": self.saturated,
            "reason": self.reason,
        }
        line |= {key: value for key, value in optional.items() if value is not None}
        return json.dumps(line, allow_nan=False)


class History:
    """The entries of a run, kept in memory and, with a path, appended to a file."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entries: list[Entry] = []

    def add(self, entries: Iterable[Entry]) -> None:
        """Append entries; they are with the file system when this returns.

        Raises:
            StorageError: the disk is full or not writable.
        """
        new = list(entries)
        self.entries += new
        if self.path is not None and new:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(entry.to_json() + "\n" for entry in new))
            except OSError as error:
                raise StorageError(f"cannot write {self.path}: {error.strerror}") from error

    def has(self, round_number: int, phase: Phase) -> bool:
        """Return whether anything is written down for this phase of a round."""
        wanted = (round_number, phase)
        return any((entry.round_number, entry.phase) == wanted for entry in reversed(self.entries))

    def forget_after(self, round_number: int) -> None:
        """Drop what a run wrote after the round that it resumes from."""
        if self.path is None or not self.path.exists():
            return
        lines = read_history(self.path)
        kept = [line for line in lines if line["round"] <= round_number]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.entries = [_entry(line) for line in kept]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history; a last line that a crash cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    read: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            read.append(json.loads(line))
        except ValueError:
            if number != len(lines):
                raise
    return read


def _entry(line: Mapping[str, Any]) -> Entry:
    named = {key: value for key, value in line.items() if key != "round"}
    return Entry(round_number=line["round"], **named)
