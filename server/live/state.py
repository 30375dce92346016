"""How a run gets on, in a word and a sentence, from the files of its folder alone."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedward.common.wording import duration
from fedward.server.report.monitoring import Monitoring
from fedward.server.report.series import Rounds

Word = Literal["waiting", "running", "stalled", "finished", "failed", "stopped", "kept"]
STALLED_AFTER_S = 60.0
"""Shortest silence that is worth a word; longer where rounds are long."""
PATIENCE = 5
"""Silence of so many rounds, each as long as the longest so far, is worth a word."""
ENDINGS = {
    "rounds": "It ran to its end.",
    "plateau": "It ended early: the figure that was watched stopped getting better.",
    "saturation": "It ended early: enough sites were saturated.",
    "quorum": "It ended because too few sites replied.",
}


@dataclass(frozen=True)
class State:
    """What the page says at its top."""

    word: Word
    sentence: str
    done: int = 0
    """Rounds that are over."""
    total: int | None = None
    """Rounds that were asked for."""
    silent_s: float | None = None
    """Seconds since something was written; None where nothing was, or nothing will be."""

    @property
    def since(self) -> str:
        """How long ago something was written; empty where that says nothing."""
        if self.silent_s is None:
            return ""
        if self.silent_s < 1:
            return "Last change under a second ago."
        whole_s = int(self.silent_s)
        return f"Last change {f'{whole_s} s' if whole_s < 10 else duration(whole_s)} ago."


def state_of_run(
    run_dir: Path,
    folder: Path,
    rounds: Rounds,
    *,
    num_rounds: int | None,
    changed_at_s: float | None,
) -> State:
    """Return the state of a run or of one of its repetitions.

    Args:
        run_dir: holds what the coordinator notes of a run in a deployment.
        folder: of the repetition; the run's own where it has none.
        rounds: as far as the history goes.
        num_rounds: as configured.
        changed_at_s: when the history last changed, in seconds since 1970.
    """
    done = rounds.numbers[-1] if rounds.numbers else 0
    ended = _ended(run_dir, folder, changed_at_s)
    if ended is not None:
        return State(ended[0], ended[1], done, num_rounds)
    if changed_at_s is None:
        return State("waiting", "No round has ended yet.", 0, num_rounds)
    silent_s = max(0.0, time.time() - changed_at_s)
    word, sentence = _under_way(rounds, num_rounds, silent_s)
    return State(word, sentence, done, num_rounds, silent_s)


def state_of_maps(folder: Path, monitoring: Monitoring | None) -> State:
    """Return what there is at a hospital, whose rounds are counted elsewhere."""
    if monitoring is None or not monitoring.maps:
        return State(
            "waiting",
            f"No maps in {folder} yet: a run must ask for monitor.cme, and have trained here.",
        )
    numbers = sorted({number for files in monitoring.maps.values() for number in files})
    newest = max(path.stat().st_mtime for path in _newest_files(monitoring))
    silent_s = max(0.0, time.time() - newest)
    several = "" if len(numbers) == 1 else "s"
    return State(
        "kept",
        f"Maps of {len(numbers)} round{several}; the newest is of round {numbers[-1]}.",
        numbers[-1],
        silent_s=silent_s,
    )


def read_object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; empty where there is none, or it is being written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ended(run_dir: Path, folder: Path, changed_at_s: float | None) -> tuple[Word, str] | None:
    """Return how the run ended; None while it goes on, also again after `--resume`."""
    status = read_object(run_dir / "status.json")
    message = str(status.get("message") or "")
    if status.get("state") == "failed":
        return "failed", message or "The coordinator gives no reason."
    if status.get("state") == "stopped":
        return "stopped", message or "An operator stopped it."
    path = folder / "summary.json"
    try:
        written_s = path.stat().st_mtime
    except OSError:
        return None
    if changed_at_s is not None and changed_at_s > written_s:
        return None
    return "finished", _ending(read_object(path))


def _ending(summary: Mapping[str, Any]) -> str:
    reason = str(summary.get("stopped_by", "rounds"))
    return ENDINGS.get(reason, f"It was ended by: {reason}.")


def _under_way(rounds: Rounds, num_rounds: int | None, silent_s: float) -> tuple[Word, str]:
    longest_s = float(rounds.seconds.max()) if rounds.numbers else 0.0
    done = rounds.numbers[-1] if rounds.numbers else 0
    is_over = num_rounds is not None and done >= num_rounds
    # Each baseline takes as long as all the rounds, and tells the history nothing.
    usual_s = float(rounds.seconds.sum()) if is_over else longest_s
    if silent_s > max(STALLED_AFTER_S, PATIENCE * usual_s):
        longest = f"; the longest round took {duration(longest_s)}" if longest_s else ""
        return "stalled", (
            f"Nothing was written for long{longest}. It may wait for sites, train a baseline, or "
            "no longer run."
        )
    if is_over:
        return "running", "Baselines, figures and the report follow."
    return "running", f"Round {done + 1} is under way." if done else "The first round is under way."


def _newest_files(monitoring: Monitoring) -> list[Path]:
    return [files[max(files)] for files in monitoring.maps.values() if files]
