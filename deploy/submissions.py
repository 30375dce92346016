"""What operators see of their runs: Flower's runs put together by the request they carry.

A run that was interrupted goes on under another Flower run; to its operator it is still one run.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import ConfigError, NetworkError, TrustError
from fedward.common.kit import Kit
from fedward.common.operator_auth import Signer
from fedward.common.request import RunRequest, read_request
from fedward.server.link.flower_control import Control, RunInfo

State = Literal["waiting", "running", "interrupted", "finished", "failed", "stopped"]
AGAIN_WITHIN_S = 180.0
STOPPED = 130
_POLL_S = 1.0
_EXIT = re.compile(r"exit (\d+): (.*)", re.DOTALL)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """One signed request, and the Flower runs that it took so far."""

    request: RunRequest
    flower_runs: tuple[RunInfo, ...]
    """Newest first; at least one."""

    @property
    def short(self) -> str:
        """What users call it."""
        return self.request.hash[:8]

    @property
    def newest(self) -> RunInfo:
        """The Flower run that counts."""
        # One that completed stays what it is, even if somebody sends the request again.
        completed = [run for run in self.flower_runs if run.sub_status == "completed"]
        return (completed or self.flower_runs)[0]

    @property
    def state(self) -> State:
        """Where it stands; `interrupted`: the coordinator will start it again."""
        run = self.newest
        if not run.is_over:
            return "running" if run.status == "running" else "waiting"
        if run.sub_status == "completed":
            return "finished"
        if run.was_stopped:
            return "stopped"
        return "failed" if _EXIT.match(run.details) else "interrupted"

    @property
    def outcome(self) -> tuple[int, str]:
        """Exit code and message of a run that is over."""
        found = _EXIT.match(self.newest.details)
        if found:
            return int(found[1]), found[2]
        return (STOPPED, "stopped by an operator") if self.state == "stopped" else (0, "")

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        code, message = self.outcome
        return {
            "run": self.short,
            "request": self.request.hash,
            "name": self.request.config.get("name"),
            "operator": self.request.operator,
            "submitted": self.request.submitted,
            "state": self.state,
            "exit_code": code,
            "message": message,
            "flower_runs": [run.run_id for run in self.flower_runs],
        }


def control_of(kit: Kit, key: ec.EllipticCurvePrivateKey) -> Control:
    """Return a connection to the coordinator of this kit, for its operator, whose key it is."""
    signer = Signer(kit.name, kit.consortium, key)
    return Control(kit.address, kit.ca_file.read_bytes(), signer)


def submissions(control: Control, kit: Kit) -> list[Submission]:
    """Return the coordinator's newest runs that an operator of the roster signed, newest first."""
    groups: dict[str, tuple[RunRequest, list[RunInfo]]] = {}
    for run in control.runs():
        try:
            request = read_request(run.request, kit.roster)
        except TrustError:
            continue  # started by somebody who is no operator: no site answers it
        groups.setdefault(request.hash, (request, []))[1].append(run)
    return [Submission(request, tuple(runs)) for request, runs in groups.values()]


def find(control: Control, kit: Kit, name: str) -> Submission:
    """Return the one run that `name` means: the start of its request's hash, or a Flower run id.

    Raises:
        ConfigError: there is none, or several.
    """
    known = submissions(control, kit)
    found = [one for one in known if len(name) >= 4 and one.request.hash.startswith(name)]
    found = found or [one for one in known if name in {str(run.run_id) for run in one.flower_runs}]
    if len(found) != 1:
        listed = ", ".join(one.short for one in found or known) or "none"
        raise ConfigError(f"{name}: {'several runs' if found else 'no run'} of that name: {listed}")
    return found[0]


def stop(control: Control, kit: Kit, name: str) -> Submission:
    """End a run for good and return it.

    Raises:
        ConfigError: there is no such run, or it is over.
        NetworkError: it was interrupted and is not being started again.
    """
    deadline = time.monotonic() + AGAIN_WITHIN_S
    while True:
        found = find(control, kit, name)
        if found.state in {"finished", "failed", "stopped"}:
            raise ConfigError(f"run {found.short} is over already: {found.state}")
        if [run for run in found.flower_runs if not run.is_over and control.stop_run(run.run_id)]:
            return find(control, kit, name)
        # Interrupted: it can be stopped once the coordinator has started it again.
        _give_up_after(deadline, found)
        time.sleep(_POLL_S)


class Follower:
    """Shows a run's log as it grows, across interruptions of the run and of the coordinator."""

    def __init__(self, kit: Kit, key: ec.EllipticCurvePrivateKey, *, name: str, say: Say) -> None:
        """Keep what to follow; `say` gets pieces of text that may span several lines."""
        self._kit, self._key, self._name, self._say = kit, key, name, say
        self._shown: dict[int, int] = {}

    def until_over(self) -> Submission:
        """Show the log until the run is over, and return the run.

        Raises:
            NetworkError: the coordinator stays away, or does not start the run again.
        """
        deadline = time.monotonic() + AGAIN_WITHIN_S
        while True:
            try:
                found = self._once()
            except NetworkError as error:
                if isinstance(error, TrustError) or time.monotonic() > deadline:
                    raise
            else:
                if found.state in {"finished", "failed", "stopped"}:
                    return found
                if found.state == "interrupted":
                    _give_up_after(deadline, found)
                else:
                    deadline = time.monotonic() + AGAIN_WITHIN_S
            time.sleep(_POLL_S)

    def _once(self) -> Submission:
        with control_of(self._kit, self._key) as control:
            found = find(control, self._kit, self._name)
            for run in reversed(found.flower_runs):
                if run.status in {"running", "finished"}:
                    self._show(control, run.run_id)
            return find(control, self._kit, self._name)

    def _show(self, control: Control, run_id: int) -> None:
        at = 0
        for piece in control.logs(run_id, follow=True):
            # After a lost connection the log comes from its beginning again.
            new = piece[max(self._shown.get(run_id, 0) - at, 0) :]
            at += len(piece)
            self._shown[run_id] = max(self._shown.get(run_id, 0), at)
            if new:
                self._say(new)


def _give_up_after(deadline: float, found: Submission) -> None:
    if time.monotonic() > deadline:
        raise NetworkError(
            f"run {found.short} was interrupted and is not being started again "
            f"({found.newest.details or 'no reason given'}); see the coordinator's log"
        )
