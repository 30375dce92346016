"""Starting, finding, stopping and killing the processes of a federation."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import psutil

from fedward.common.processes import follow_parent

T = TypeVar("T")
PARTS = {
    "superlink": "flower-superlink",
    "front": "fedward.server.link.front",
    "conductor": "fedward.server.link.conductor",
    "run": "fedward.server.link.run_process",
    "supernode": "--auth-supernode-private-key",
    "runner": "fedward.client.resident.runner",
    "worker": "fedward.client.resident.worker",
}
"""What the command line of each part holds."""


class TooLateError(AssertionError):
    """Something that was waited for did not happen in time."""


def wait_for(
    happened: Callable[[], T | None], what: str, *, within_s: float, every_s: float = 0.2
) -> T:
    """Return the first true answer of `happened`.

    Raises:
        TooLateError: it never came.
    """
    ends = time.monotonic() + within_s
    while True:
        if answer := happened():
            return answer
        if time.monotonic() > ends:
            raise TooLateError(f"waited {within_s:.0f} s in vain for {what}")
        time.sleep(every_s)


@dataclass
class Tree:
    """One started command and everything that it started."""

    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _out: IO[bytes] = field(init=False, repr=False)

    def start(self) -> "Tree":
        """Start the command; its output is appended to the log."""
        self._out = self.log.open("ab")
        self.process = subprocess.Popen(
            follow_parent(self.argv),  # nothing is left behind when the tests are killed
            stdout=self._out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.env},
            start_new_session=True,
        )
        return self

    def part(self, name: str) -> psutil.Process | None:
        """Return the newest living process of one part, or None."""
        found = [one for one in self.members() if PARTS[name] in " ".join(_command(one))]
        return max(found, key=psutil.Process.create_time) if found else None

    def members(self) -> list[psutil.Process]:
        """Return the living descendants."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self, name: str | None = None, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one part, or to the started command itself, and return the pid.

        Raises:
            TooLateError: there is no such part.
        """
        if name is None:
            self.process.send_signal(how)
            return self.process.pid
        part = wait_for(lambda: self.part(name), f"a process of {name}", within_s=90)
        part.send_signal(how)
        return part.pid

    def stop(self, within_s: float = 25) -> float:
        """End the command with SIGTERM, then whatever is left; return the seconds that it took."""
        started = time.monotonic()
        members = self.members()
        if self.process.poll() is None:
            for member in members:  # a stopped process would never hear of the end
                _signal(member, signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for member in members:
            _signal(member, signal.SIGKILL)
        self._out.close()
        return time.monotonic() - started

    def text(self) -> str:
        """Return all that the command has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(how)


def run_command(argv: Sequence[str], env: Mapping[str, str], *, within_s: float = 120) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        AssertionError: it failed; the message holds its output.
    """
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=within_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    return done.stdout
