"""What a run has written down at the coordinator, as the cases ask for it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.faults.processes import wait_for

Line = dict[str, Any]
ENDED = {"finished", "failed", "stopped"}


@dataclass(frozen=True)
class RunFolder:
    """`state/runs/<name>-<time>` of one run."""

    path: Path
    config: dict[str, Any]

    @property
    def status(self) -> Line:
        """The run's `status.json`; empty before there is one."""
        try:
            read: Line = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or just being written
            return {}
        return read

    def history(self) -> list[Line]:
        """Return the lines of `history.jsonl`; a line that is being written is left out."""
        return _lines(self.path / "history.jsonl")

    def audit(self) -> list[Line]:
        """Return the lines of `audit.jsonl`."""
        return _lines(self.path / "audit.jsonl")

    def closed(self) -> list[Line]:
        """Return the federation's own training line of each round that is over."""
        return [x for x in self.history() if x["site"] is None and x["phase"] == "train"]

    @property
    def round_number(self) -> int:
        """The last round that is over."""
        return max((line["round"] for line in self.closed()), default=0)

    def replies(self, round_number: int, status: str = "ok") -> set[str]:
        """Return the sites whose training of a round has this status."""
        return {
            line["site"]
            for line in self.history()
            if line["round"] == round_number
            and line["phase"] == "train"
            and line["site"] is not None
            and line["status"] == status
        }

    def reasons(self, site: str) -> dict[int, str]:
        """Return why the replies of `site` did not count, by round."""
        return {
            line["round"]: line.get("reason", "")
            for line in self.history()
            if line["site"] == site and line["phase"] == "train" and line["status"] != "ok"
        }

    def wait_round(self, number: int, within_s: float = 180) -> float:
        """Return the seconds until round `number` was over."""
        started = time.monotonic()
        wait_for(
            lambda: self.round_number >= number or self._ended(number),
            f"round {number} of {self.path.name} (at {self.round_number}, {self.status})",
            within_s=within_s,
            every_s=0.1,
        )
        return time.monotonic() - started

    def wait_reply(self, site: str, *, after: int, within_s: float = 180) -> tuple[int, float]:
        """Return the first round later than `after` in which `site` counted, and the seconds."""
        started = time.monotonic()

        def first() -> int:
            rounds = {line["round"] for line in self.history() if line["round"] > after}
            return min((one for one in rounds if site in self.replies(one)), default=0)

        number = wait_for(first, f"{site} to count after round {after}", within_s=within_s)
        return number, time.monotonic() - started

    def wait_end(self, within_s: float = 600) -> Line:
        """Return the status of the run when it has ended."""
        return wait_for(
            lambda: self.status if self.status.get("state") in ENDED else {},
            f"the end of {self.path.name} (round {self.round_number}, {self.status})",
            within_s=within_s,
        )

    def model(self) -> npt.NDArray[np.float32]:
        """Return the newest checkpoint's parameters."""
        return self.checkpoint()["progress/parameters"]

    def checkpoint(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of the newest checkpoint."""
        from safetensors.numpy import load_file

        files = sorted(self.path.rglob("round-*.safetensors"))
        return load_file(files[-1])

    def _ended(self, number: int) -> bool:
        state = self.status.get("state")
        assert state not in {"failed", "stopped"}, f"{self.status} before round {number}"
        return False


def broken_rules(run: RunFolder) -> list[str]:
    """Return what must never be seen in a history, with the round: empty is good."""
    found: list[str] = []
    min_replies = run.config["sampling"]["min_replies"]
    last = 0
    for line in run.closed():
        number, accepted = line["round"], run.replies(line["round"])
        if number < last:
            found.append(f"round {number} after round {last}")
        last = max(last, number)
        if line["status"] == "ok" and len(accepted) < min_replies:
            found.append(f"round {number} aggregated {len(accepted)} replies")
    counted: set[tuple[int, str, str]] = set()
    for line in run.history():
        if line["site"] is None or line["status"] != "ok":
            continue
        key = (line["round"], line["site"], line["phase"])
        if key in counted:
            found.append(f"{key[1]} counted twice in round {key[0]}")
        counted.add(key)
    if run.round_number and not np.isfinite(run.model()).all():
        found.append("the model is not finite")
    return found


def _lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    read: list[Line] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            read.append(json.loads(text))
        except ValueError:  # being written
            break
    return read
