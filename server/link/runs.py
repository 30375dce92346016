"""The folders of the coordinator's runs: one per signed request, whatever happens in between.

`status.json` says what is known of a run, `request.json` is the signed request, and a lock keeps
two processes out of one folder. A request that has ended is never run again: whoever records one
on its way cannot replay it.
"""

import datetime
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Literal

from fedward.common.errors import ConfigError, RefusedError, StorageError
from fedward.common.keys import write_private
from fedward.common.request import RunRequest

State = Literal["running", "finished", "failed", "stopped"]
MAX_ATTEMPTS = 5
_STATUS, _REQUEST, _LOCK = "status.json", "request.json", "lock"


@dataclass(frozen=True)
class RunStatus:
    """What `status.json` says."""

    state: State
    flower_run: int
    """The latest of the Flower runs that this run took."""
    request: str
    """Hash of the request."""
    operator: str
    submitted: str
    attempts: int = 1
    """Starts since the last progress."""
    progress: str = ""
    """Names of the newest checkpoints when it was last started."""
    message: str = ""
    """Why it failed."""
    exit_code: int = 0


def runs_folder(state: Path) -> Path:
    """Return the folder below which the runs lie, made if it is missing."""
    folder = state / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_status(folder: Path) -> RunStatus:
    """Return the status of the run in `folder`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    path = folder / _STATUS
    try:
        return RunStatus(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{path}: cannot be read back: {error}") from error


def write_status(folder: Path, status: RunStatus) -> None:
    """Write the status atomically, so that a crash leaves the old or the new one."""
    write_private(folder / _STATUS, json.dumps(asdict(status), indent=1).encode() + b"\n")


def read_request_text(folder: Path) -> str:
    """Return the signed request of the run in `folder`."""
    try:
        return (folder / _REQUEST).read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder / _REQUEST}: {error.strerror}") from error


def all_runs(state: Path) -> list[Path]:
    """Return the folders of all runs that have a status, oldest name first."""
    return sorted(path.parent for path in runs_folder(state).glob(f"*/{_STATUS}"))


def find_run(state: Path, request_hash: str) -> Path | None:
    """Return the folder of the run with this request, or None."""
    for folder in all_runs(state):
        if read_status(folder).request == request_hash:
            return folder
    return None


def may_try_again(folder: Path, status: RunStatus) -> bool:
    """Return whether another start makes sense: it got on, or was not yet tried often enough."""
    return status.attempts < MAX_ATTEMPTS or progress_of(folder) != status.progress


def progress_of(folder: Path) -> str:
    """Return a text that changes with every checkpoint that the run writes."""
    return " ".join(sorted(path.name for path in folder.rglob("*.safetensors")))


@contextmanager
def claimed(state: Path, request: RunRequest, text: str, flower_run: int) -> Iterator[Path]:
    """Yield the folder of the run, marked as running and locked against any other process.

    Args:
        state: the coordinator's folder.
        request: verified.
        text: the request as it was signed.
        flower_run: the Flower run that runs it now.

    Raises:
        RefusedError: another process runs this request now, or it ended before.
    """
    with _locked(runs_folder(state) / _LOCK, wait=True):  # two may look for a new name at once
        folder = find_run(state, request.hash) or _new_folder(state, request)
    with _locked(folder / _LOCK, wait=False):
        _mark_running(folder, request, text, flower_run)
        yield folder


def _mark_running(folder: Path, request: RunRequest, text: str, flower_run: int) -> None:
    progress, attempts = progress_of(folder), 1
    if (folder / _STATUS).exists():
        before = read_status(folder)
        if before.state != "running":
            raise RefusedError(
                f"this request was run already ({folder.name}: {before.state}); "
                "submit the run again to start another one"
            )
        attempts = before.attempts + 1 if before.progress == progress else 1
    write_private(folder / _REQUEST, text.encode())
    status = RunStatus(
        state="running",
        flower_run=flower_run,
        request=request.hash,
        operator=request.operator,
        submitted=request.submitted,
        attempts=attempts,
        progress=progress,
    )
    write_status(folder, status)


def end_run(folder: Path, state: State, message: str = "", exit_code: int = 0) -> None:
    """Mark a run as over, for good."""
    status = read_status(folder)
    write_status(folder, replace(status, state=state, message=message, exit_code=exit_code))


def _new_folder(state: Path, request: RunRequest) -> Path:
    name = str(request.config.get("name", ""))
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,79}", name):
        raise ConfigError("the run has no usable name; expected lower-case letters and hyphens")
    now = datetime.datetime.now(datetime.UTC)
    stem = f"{name}-{now:%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = runs_folder(state) / (stem + suffix)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        # At once, so that a process that dies here leaves a run that can be found again.
        status = RunStatus("running", 0, request.hash, request.operator, request.submitted, 0)
        write_status(folder, status)
        return folder
    raise StorageError(f"{runs_folder(state)}: too many runs called {stem}")


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[IO[str]]:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RefusedError(f"{path.parent.name} is being run by another process") from None
        yield file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
