"""Keeps the SuperLink's registrations as the roster says, and its runs going.

Flower's own launcher starts the code inside the bundle. This one starts `run_process`, one process
per run, and starts a run again when its process or the SuperLink was lost on the way: sites answer
by the signed request, which stays the same, so the rounds go on where they were.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import FrameType

from fedward.common.errors import FedwardError, NetworkError
from fedward.common.kit import Kit, load_kit
from fedward.common.processes import follow_parent
from fedward.common.roster import Roster
from fedward.server.link.flower_control import Control, NodeState, RunInfo
from fedward.server.link.flower_runtime import Runtime, Task
from fedward.server.link.run_process import Order
from fedward.server.link.runs import (
    RunStatus,
    all_runs,
    end_run,
    may_try_again,
    read_request_text,
    read_status,
    write_status,
)
from fedward.server.link.superlink import secret_file, wait_healthy

MAX_RUNS_AT_ONCE = 4
POLL_S = 0.5
RUNS_EVERY_S = 3.0
ROSTER_EVERY_S = 30.0
HEALTHY_WITHIN_S = 120.0
END_WITHIN_S = 60.0
RUN_PROCESS = (sys.executable, "-I", "-m", "fedward.server.link.run_process")
log = logging.getLogger("fedward.conductor")


@dataclass(frozen=True)
class Settings:
    """What a conductor needs to know."""

    kit: Path
    state: Path
    runtime: str
    """host:port of the SuperLink, as this machine reaches it."""
    bundle: bytes
    program: Sequence[str] = RUN_PROCESS

    @property
    def accept(self) -> str:
        """SHA-256 of the only bundle that is taken."""
        return sha256(self.bundle).hexdigest()


@dataclass
class _Child:
    """The process of one run."""

    task: Task
    process: subprocess.Popen[str]
    over_since: float | None = None


class Conductor:
    """Takes over runs and looks after them, one `step` at a time."""

    def __init__(self, settings: Settings) -> None:
        """Read the kit; nothing is connected yet.

        Raises:
            ConfigError: the kit or the secret cannot be used.
            TrustError: the roster is not signed by the kit's authority.
        """
        self._settings = settings
        self._kit = load_kit(settings.kit, "server")
        self._ca = self._kit.ca_file.read_bytes()
        self._control = Control(settings.runtime, self._ca)
        secret = secret_file(settings.state).read_bytes()
        self._runtime = Runtime(settings.runtime, self._ca, secret)
        self._children: dict[int, _Child] = {}
        self._ended: list[tuple[Task, int]] = []
        self._tried: set[str] = set()
        self._due = {"roster": 0.0, "runs": 0.0}
        self._trouble = ""

    def run(self) -> None:
        """Work until the process is ended."""
        wait_healthy(self._settings.runtime, self._ca, within_s=HEALTHY_WITHIN_S)
        log.info("ready: bundle %s, roster %s", self._settings.accept[:12], self._kit.roster.serial)
        while True:
            self.step()
            time.sleep(POLL_S)

    def step(self) -> None:
        """Do what is due; trouble with the SuperLink is logged once and waited out."""
        try:
            self._reap()
            self._settle()
            if self._is_due("roster", ROSTER_EVERY_S):
                self._keep_roster()
            if len(self._children) < MAX_RUNS_AT_ONCE:
                task = self._runtime.acquire()
                if task is not None:
                    self._take(task)
            if self._is_due("runs", RUNS_EVERY_S):
                self._look_after_runs()
        except FedwardError as error:
            if str(error) != self._trouble:
                log.warning("%s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    def close(self) -> None:
        """End the processes of all runs, which go on at the next start, and the connections."""
        for child in self._children.values():
            child.process.terminate()
        for child in self._children.values():
            try:
                child.process.wait(5)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children.clear()
        self._control.close()
        self._runtime.close()

    def _is_due(self, what: str, every_s: float) -> bool:
        if time.monotonic() < self._due[what]:
            return False
        self._due[what] = time.monotonic() + every_s
        return True

    def _keep_roster(self) -> None:
        # Read again each time: a revoked site is out without a restart.
        self._kit = load_kit(self._settings.kit, "server")
        for line in reconcile(self._control, self._kit.roster):
            log.info("%s", line)

    def _take(self, task: Task) -> None:
        if not task.is_run:
            log.warning("Flower run %d is no run of ours: refused", task.run_id)
            self._runtime.give_up(task, "this coordinator runs nothing but fedward")
            return
        settings = self._settings
        order = Order(
            runtime=settings.runtime,
            kit=str(settings.kit),
            state=str(settings.state),
            accept=settings.accept,
            nodes=self._node_ids(),
            token=task.token,
        )
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            follow_parent(settings.program), stdin=subprocess.PIPE, text=True
        )
        self._children[task.run_id] = _Child(task, process)
        assert process.stdin is not None
        try:
            process.stdin.write(order.to_json())
            process.stdin.close()
        except OSError:
            return  # it has ended already, and is reaped below
        log.info("Flower run %d: process %d", task.run_id, process.pid)

    def _node_ids(self) -> dict[str, int]:
        names = {site.public_key: site.name for site in self._kit.roster.sites}
        nodes = [node for node in self._control.nodes() if node.is_registered]
        return {names[node.public_key]: node.node_id for node in nodes if node.public_key in names}

    def _reap(self) -> None:
        for run_id, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._children[run_id]
            log.info("Flower run %d: its process ended with exit code %d", run_id, code)
            if code:
                self._ended.append((child.task, code))
            self._due["runs"] = 0.0

    def _settle(self) -> None:
        """Deal with the runs whose processes failed or were killed."""
        while self._ended:
            task, code = self._ended[0]
            if code > 0 or self._folder_of(task.run_id) is not None:
                self._runtime.give_up(task, f"interrupted: its process ended with {code}")
            else:
                self._submit_again(task)
            self._ended.pop(0)  # only now: the SuperLink may be away

    def _submit_again(self, task: Task) -> None:
        """Start a run again, once, whose process was killed before it had a folder."""
        run = self._control.run(task.run_id)
        if run is None or run.was_stopped or run.status in ("pending", "starting"):
            return  # one that was not begun goes back to those that wait
        self._runtime.give_up(task, "interrupted: its process was killed")
        if run.request not in self._tried:
            self._tried.add(run.request)
            self._control.start_run(self._settings.bundle, run.request)

    def _folder_of(self, run_id: int) -> Path | None:
        for folder in all_runs(self._settings.state):
            if read_status(folder).flower_run == run_id:
                return folder
        return None

    def _look_after_runs(self) -> None:
        for folder in all_runs(self._settings.state):
            status = read_status(folder)
            if status.state == "running":
                self._look_after(folder, status)

    def _look_after(self, folder: Path, status: RunStatus) -> None:
        run = self._control.run(status.flower_run) if status.flower_run else None
        child = self._children.get(status.flower_run)
        if child is not None:
            self._end_if_over(child, run)
        elif run is not None and run.was_stopped:
            end_run(folder, "stopped", "stopped by an operator")
            log.info("%s: stopped by an operator", folder.name)
        elif run is not None and run.status in ("pending", "starting"):
            return  # about to be taken over
        elif not may_try_again(folder, status):
            message = f"interrupted {status.attempts} times without getting on; see the log"
            end_run(folder, "failed", message, NetworkError.exit_code)
            log.error("%s: %s", folder.name, message)
        else:
            self._start_again(folder, status, run)

    def _end_if_over(self, child: _Child, run: RunInfo | None) -> None:
        """End a process that goes on computing although its run was stopped."""
        if run is None or not run.is_over:
            return
        child.over_since = child.over_since or time.monotonic()
        if time.monotonic() - child.over_since > END_WITHIN_S:
            child.process.kill()

    def _start_again(self, folder: Path, status: RunStatus, run: RunInfo | None) -> None:
        request = read_request_text(folder)
        waiting = [
            other.run_id
            for other in self._control.runs()
            if other.request == request and not other.is_over and other.run_id != status.flower_run
        ]
        # Waiting already if we were ended between the two lines below.
        new = waiting[0] if waiting else self._control.start_run(self._settings.bundle, request)
        write_status(folder, replace(status, flower_run=new))
        if run is not None and not run.is_over:
            self._control.stop_run(run.run_id)  # its process is gone: it will never end by itself
        log.info("%s: starts again as Flower run %d", folder.name, new)


def reconcile(control: Control, roster: Roster) -> list[str]:
    """Register the keys of the roster, unregister all others, and return what was changed.

    Raises:
        NetworkError: the SuperLink cannot be reached or refuses.
    """
    nodes = control.nodes()
    wanted = {site.public_key: site.name for site in roster.sites}
    registered = {node.public_key for node in nodes if node.is_registered}
    lines = [_unregister(control, node) for node in _strangers(nodes, wanted)]
    dead = {node.public_key for node in nodes if not node.is_registered}
    for key, name in wanted.items():
        if key in registered:
            continue
        if key in dead:
            # The SuperLink refuses a key that it has once unregistered.
            lines.append(
                f"site {name} was unregistered behind our back and cannot connect; stop "
                "`fedward server`, delete superlink.sqlite in its folder, start it again"
            )
            continue
        control.register(key, name)
        lines.append(f"site {name}: registered")
    return lines


def _strangers(nodes: Iterable[NodeState], wanted: dict[str, str]) -> list[NodeState]:
    return [node for node in nodes if node.is_registered and node.public_key not in wanted]


def _unregister(control: Control, node: NodeState) -> str:
    control.unregister(node.node_id)
    return f"node {node.name or node.node_id}: unregistered, because it is not in the roster"


def conductor_command(kit: Kit, state: Path, runtime: str, bundle: Path) -> list[str]:
    """Return the command of the conductor."""
    return [
        *(sys.executable, "-I", "-m", "fedward.server.link.conductor"),
        *("--kit", str(kit.folder), "--state", str(state)),
        *("--runtime", runtime, "--bundle", str(bundle)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conductor until a signal ends it; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="conductor", description=__doc__)
    for name in ("--kit", "--state", "--bundle"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--runtime", required=True)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _end)
    os.umask(0o077)
    try:
        bundle = args.bundle.read_bytes()
        conductor = Conductor(Settings(args.kit, args.state, args.runtime, bundle))
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400 - our own errors are shown without a traceback
        return error.exit_code
    try:
        conductor.run()
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    finally:
        conductor.close()
    return 0


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
