"""The history of a run as arrays: R rounds by S sites, NaN where nothing was reported."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.errors import FedwardError
from fedward.server.history import read_history

Floats = npt.NDArray[np.float64]
STATUSES = ("ok", "rejected", "failed")
MAX_POINTS = 300


@dataclass(frozen=True)
class Rounds:
    """One run, round by round. R rounds, S sites."""

    numbers: list[int]
    sites: list[str]
    per_site: Mapping[str, Floats]
    """(R, S) of each figure; losses are `train_loss` and `eval_loss`."""
    overall: Mapping[str, Floats]
    """(R,) of each figure, over the federation."""
    status_RS: npt.NDArray[np.int8]
    """What came of asking a site to train: an index into STATUSES, or -1 for not asked."""
    seconds: Floats
    bytes_sent: Floats
    bytes_received: Floats

    def counts(self, status: str) -> npt.NDArray[np.int64]:
        """Return (R,) how many sites ended each round with `status`."""
        return np.asarray((self.status_RS == STATUSES.index(status)).sum(axis=1))

    def curve(self, name: str) -> Floats:
        """Return (R,) the federation's figure, or the mean over sites where it has none."""
        if name in self.overall:
            return self.overall[name]
        values_RS = self.per_site[name]
        there = np.isfinite(values_RS)
        total = np.where(there, values_RS, 0.0).sum(axis=1)
        count = there.sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    @property
    def figures(self) -> list[str]:
        """Every figure of the history."""
        return list(dict.fromkeys([*self.overall, *self.per_site]))


def read_rounds(run_dir: Path, known_sites: Sequence[str] = ()) -> Rounds:
    """Return the rounds in `history.jsonl`; none where there is no such file.

    Sites come in the order of `known_sites`, then those that only the history knows.

    Raises:
        FedwardError: a line other than the last is not JSON.
    """
    return tabulate(read_lines(run_dir), known_sites)


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of `history.jsonl`; none where there is no such file.

    Raises:
        FedwardError: a line other than the last is not JSON.
    """
    path = run_dir / "history.jsonl"
    try:
        return read_history(path) if path.exists() else []
    except ValueError as error:
        raise FedwardError(f"{path}: a line is not JSON ({error}); was it edited?") from error


def tabulate(lines: Iterable[Mapping[str, Any]], known_sites: Sequence[str] = ()) -> Rounds:
    """Return the lines of a history as arrays; preparations (round 0) are left out."""
    kept = [line for line in lines if line.get("round", 0) > 0]
    numbers = sorted({line["round"] for line in kept})
    seen = dict.fromkeys(str(line["site"]) for line in kept if line.get("site") is not None)
    sites = [*known_sites, *sorted(set(seen) - set(known_sites))]
    row = {number: index for index, number in enumerate(numbers)}
    column = {site: index for index, site in enumerate(sites)}
    shape = (len(numbers), len(sites))
    per_site: dict[str, Floats] = defaultdict(lambda: np.full(shape, np.nan))
    overall: dict[str, Floats] = defaultdict(lambda: np.full(len(numbers), np.nan))
    status_RS = np.full(shape, -1, dtype=np.int8)
    seconds, sent, received = (np.zeros(len(numbers)) for _ in range(3))
    for line in kept:
        r, site = row[line["round"]], line.get("site")
        if site is None:
            seconds[r] += line.get("seconds", 0.0) if line.get("phase") == "train" else 0.0
            for name, value in _numbers(line):
                overall[name][r] = value
            continue
        s = column[str(site)]
        sent[r] += line.get("bytes_sent", 0)
        received[r] += line.get("bytes_received", 0)
        if line.get("phase") == "train" and line.get("status", "ok") in STATUSES:
            status_RS[r, s] = STATUSES.index(line.get("status", "ok"))
        for name, value in _numbers(line):
            per_site[name][r, s] = value
    return Rounds(numbers, sites, dict(per_site), dict(overall), status_RS, seconds, sent, received)


def chunk(count: int, limit: int = 60) -> npt.NDArray[np.int64]:
    """Return where at most `limit` equal stretches of `count` rounds start, to sum over each."""
    return np.arange(0, count, max(1, -(-count // limit)))


def thin(count: int, limit: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Return at most `limit` positions of `count`, evenly spread, with the first and the last."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, limit).round().astype(np.int64))


def _numbers(line: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Yield the figures of a line, under one name per loss and without the undefined ones."""
    for name, value in (line.get("metrics") or {}).items():
        number = value.get("value") if isinstance(value, dict) else value
        if isinstance(number, (int, float)) and np.isfinite(number):
            loss = "train_loss" if line.get("phase") == "train" else "eval_loss"
            yield (loss if name == "loss" else str(name)), float(number)
