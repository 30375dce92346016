"""Keeps a few programs running: starts them in order, starts them again after a crash, stops all.

A supervisor is the whole of `fedward server` and `fedward client`. It needs no systemd, and does no
harm below it.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import INFO, Formatter, LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import IO

from fedward.common.errors import ConfigError, StorageError
from fedward.common.processes import follow_parent

STOP_WITHIN_S = 10.0
LOG_BYTES = 5_000_000
LOG_FILES = 5
_POLL_S = 0.1
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Say = Callable[[str], None]


WAITS_S: tuple[float, ...] = (1, 2, 5, 15, 30)


@dataclass(frozen=True)
class Service:
    """One program to keep running.

    Attributes:
        name: prefix of its lines.
        argv: its command; never holds a secret, because every user of the machine can read it.
        env: added to this process's own environment.
        log: all its output, rotated at `LOG_BYTES`.
        backoff_s: waits before the first, second, ... start after a crash; the last one repeats.
        settle_s: after this long a start counts as a success, and the waits begin anew.
        fatal_codes: exit codes after which another start is useless; they stop everything.
        echo: lines are shown as well, not only logged.
        drop: lines in which this pattern is found are neither shown nor logged.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    backoff_s: tuple[float, ...] = WAITS_S
    settle_s: float = 60.0
    fatal_codes: frozenset[int] = frozenset()
    echo: bool = True
    drop: str | None = None


@dataclass
class _State:
    """What is known of one service at the moment."""

    service: Service
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    num_crashes: int = 0
    num_starts: int = 0
    lines: "_Log | None" = field(default=None, repr=False)


class Supervisor:
    """Runs services until a signal, `stop()` or a fatal exit code ends them all."""

    def __init__(
        self,
        services: Sequence[Service],
        say: Say,
        *,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        """Keep what to run; nothing is started yet.

        Args:
            services: in the order in which they are started; stopped in reverse.
            say: gets one line per change, and the services' own lines, prefixed by their names.
            on_restart: told the name of a service that was started again.
        """
        if not services:
            raise ConfigError("there is no service to run")
        self._states = [_State(service) for service in services]
        self._say = say
        self._on_restart = on_restart
        self._stopping = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until stopped; return 0, or the fatal exit code of a service."""
        with _stop_signals(self.stop):
            try:
                for state in self._states:
                    self._open_log(state)
                while not self._stopping:
                    for state in self._states:
                        self._look_after(state)
                    time.sleep(_POLL_S)
            finally:
                for state in reversed(self._states):
                    self._end(state)
        return self._exit_code

    def stop(self) -> None:
        """Ask `run` to stop all services and to return; safe in a signal handler or a thread."""
        # A plain assignment: an Event could be locked by the very code that the signal interrupts.
        self._stopping = True

    def pid(self, name: str) -> int | None:
        """Return the process id of a service, or None while it is not running."""
        for state in self._states:
            if state.service.name == name and state.process is not None:
                return state.process.pid
        return None

    def _look_after(self, state: _State) -> None:
        if self._stopping:
            return
        if state.process is not None:
            code = state.process.poll()
            if code is not None:
                self._has_ended(state, code)
        elif state.start_at is not None and time.monotonic() >= state.start_at:
            self._start(state)

    def _start(self, state: _State) -> None:
        service = state.service
        state.process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
            follow_parent(service.argv),
            env={**os.environ, **service.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its own group: Ctrl-C reaches only us, and we stop the services in order.
            start_new_session=True,
        )
        state.started_at = time.monotonic()
        state.num_starts += 1
        state.reader = threading.Thread(target=self._read, args=(state, state.process), daemon=True)
        state.reader.start()
        again = "" if state.num_starts == 1 else " again"
        self._status(state, f"started{again} (process {state.process.pid})")
        if state.num_starts > 1 and self._on_restart is not None:
            self._on_restart(service.name)

    def _has_ended(self, state: _State, code: int) -> None:
        service = state.service
        self._forget(state)
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        if code in service.fatal_codes:
            self._status(state, f"{how}; another start would not help, see {service.log}")
            self._exit_code = code
            self.stop()
            return
        if time.monotonic() - state.started_at >= service.settle_s:
            state.num_crashes = 0
        wait_s = service.backoff_s[min(state.num_crashes, len(service.backoff_s) - 1)]
        state.num_crashes += 1
        state.start_at = time.monotonic() + wait_s
        self._status(state, f"{how}; starts again in {wait_s:g} s")

    def _end(self, state: _State) -> None:
        state.start_at = None
        process = state.process
        if process is not None:
            end_process(process, STOP_WITHIN_S)
            self._forget(state)
            self._status(state, "stopped")
        if state.lines is not None:
            state.lines.close()
            state.lines = None

    def _forget(self, state: _State) -> None:
        process, reader = state.process, state.reader
        state.process = state.reader = None
        if process is None or reader is None:
            return
        _kill_group(process.pid)  # what a killed service leaves behind must not hold its pipe open
        reader.join(STOP_WITHIN_S)
        assert process.stdout is not None
        process.stdout.close()

    def _read(self, state: _State, process: subprocess.Popen[str]) -> None:
        service, output = state.service, process.stdout
        assert output is not None
        dropped = re.compile(service.drop) if service.drop else None
        for line in _lines(output):
            if dropped is not None and dropped.search(line):
                continue
            if state.lines is not None:
                state.lines.write(line)
            if service.echo:
                self._say(f"{service.name}: {line}")

    def _status(self, state: _State, text: str) -> None:
        if state.lines is not None:
            state.lines.write(f"[supervisor] {text}")
        self._say(f"{state.service.name}: {text}")

    def _open_log(self, state: _State) -> None:
        path = state.service.log
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            state.lines = _Log(path)
        except OSError as error:
            raise StorageError(f"log of {state.service.name}: {path}: {error.strerror}") from error


def end_process(process: subprocess.Popen[str], within_s: float) -> None:
    """Ask a process that leads its own group to end; kill the group if it does not in time."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _lines(output: IO[str]) -> Iterator[str]:
    try:
        for line in output:
            yield _COLOUR.sub("", line.rstrip())
    except ValueError:  # closed by the other thread while we waited
        return


class _Log(RotatingFileHandler):
    """A rotated file that only its owner can read, with the time before each line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        formatter = Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def write(self, line: str) -> None:
        """Append one line."""
        self.handle(LogRecord("fedward", INFO, "", 0, line, None, None))

    def _open(self) -> IO[str]:  # type: ignore[override]
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)


@contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
