"""The supervisor with real processes, which are really killed."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedward.deploy import supervise
from fedward.deploy.supervise import Service, Supervisor

pytestmark = pytest.mark.network  # real processes

SLEEPER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('here', flush=True); time.sleep(600)"
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def service(folder: Path, name: str, code: str, **options: object) -> Service:
    options.setdefault("backoff_s", (0.1, 0.2))
    return Service(name, python(code), {}, folder / f"{name}.log", **options)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def running(*services: Service) -> Iterator[tuple[Supervisor, list[str], list[int]]]:
    """Run a supervisor in a thread; yield it, its lines and, once over, its exit code."""
    lines: list[str] = []
    codes: list[int] = []
    supervisor = Supervisor(services, lines.append)
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    try:
        yield supervisor, lines, codes
    finally:
        supervisor.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_services_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", SLEEPER), service(tmp_path, "two", SLEEPER)) as run:
        supervisor, lines, codes = run
        wait_until(lambda: {"one: here", "two: here"} <= set(lines))
        supervisor.stop()
        wait_until(lambda: codes)
    changes = [line.split(" (")[0] for line in lines if "here" not in line]
    assert changes == ["one: started", "two: started", "two: stopped", "one: stopped"]
    assert codes == [0]


def test_a_killed_service_is_started_again(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", SLEEPER)) as (supervisor, lines, _):
        wait_until(lambda: "one: here" in lines)
        first = supervisor.pid("one")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: lines.count("one: here") == 2)
        assert supervisor.pid("one") != first
    assert "one: was killed by signal 9; starts again in 0.1 s" in lines


def test_the_wait_before_a_start_grows_with_every_crash(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", "raise SystemExit(7)")) as (_, lines, _codes):
        wait_until(lambda: sum("starts again" in line for line in lines) >= 3)
    waits = [line for line in lines if "starts again" in line][:3]
    assert waits == [
        "one: ended with exit code 7; starts again in 0.1 s",
        "one: ended with exit code 7; starts again in 0.2 s",
        "one: ended with exit code 7; starts again in 0.2 s",
    ]


def test_a_service_that_ran_long_enough_waits_shortly_again(tmp_path: Path) -> None:
    code = "import time; time.sleep(0.5)"
    with running(service(tmp_path, "one", code, settle_s=0.4)) as (_, lines, _codes):
        wait_until(lambda: sum("starts again" in line for line in lines) >= 2)
    assert [line for line in lines if "0.2 s" in line] == []


def test_a_fatal_exit_code_stops_everything_and_is_returned(tmp_path: Path) -> None:
    fatal = service(tmp_path, "bad", "raise SystemExit(2)", fatal_codes=frozenset({2}))
    with running(service(tmp_path, "one", SLEEPER), fatal) as (_, lines, codes):
        wait_until(lambda: codes)
    assert codes == [2]
    assert "one: stopped" in lines


def test_a_service_that_ignores_the_request_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "STOP_WITHIN_S", 0.3)
    with running(service(tmp_path, "one", STUBBORN)) as (supervisor, lines, codes):
        wait_until(lambda: "one: here" in lines)
        pid = supervisor.pid("one")
        supervisor.stop()
        wait_until(lambda: codes)
    assert pid is not None
    assert not is_alive(pid)


def test_what_a_killed_service_had_started_dies_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); "
    child += "print(p.pid, flush=True); time.sleep(600)"
    with running(service(tmp_path, "one", child)) as (supervisor, lines, _):
        wait_until(lambda: any(line[5:].isdigit() for line in lines))
        grandchild = int(next(line[5:] for line in lines if line[5:].isdigit()))
        pid = supervisor.pid("one")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(grandchild))


def test_the_program_is_told_which_service_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    first_then_stay = "import os, sys, time; time.sleep(0.05); sys.exit(1)"
    supervisor = Supervisor(
        [service(tmp_path, "one", first_then_stay)], lambda _: None, on_restart=told.append
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    wait_until(lambda: told)
    supervisor.stop()
    thread.join(30)
    assert told[0] == "one"


def test_lines_are_logged_in_a_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    with running(service(tmp_path, "one", SLEEPER, echo=False)) as (_, lines, _codes):
        log = tmp_path / "one.log"
        wait_until(lambda: log.exists() and "here" in log.read_text())
    assert "one: here" not in lines
    assert stat.S_IMODE((tmp_path / "one.log").stat().st_mode) == 0o600


def test_unwanted_lines_are_dropped(tmp_path: Path) -> None:
    code = "import time; print('POST /poll 200'); print('here', flush=True); time.sleep(600)"
    with running(service(tmp_path, "one", code, drop=r"/poll \d+")) as (_, lines, _codes):
        wait_until(lambda: "one: here" in lines)
    assert "/poll" not in (tmp_path / "one.log").read_text()
    assert not [line for line in lines if "/poll" in line]


def test_colours_are_for_terminals_only(tmp_path: Path) -> None:
    code = "import time; print('\\x1b[91mERROR\\x1b[0m: here', flush=True); time.sleep(600)"
    with running(service(tmp_path, "one", code)) as (_, lines, _codes):
        wait_until(lambda: "one: ERROR: here" in lines)


def test_logs_are_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES", 2000)
    code = "import time\nfor i in range(300): print('x' * 50)\n"
    code += "print('here', flush=True)\ntime.sleep(600)"
    with running(service(tmp_path, "one", code)) as (_, lines, _codes):
        wait_until(lambda: "one: here" in lines)
    files = list(tmp_path.glob("one.log*"))
    assert len(files) == supervise.LOG_FILES + 1
    assert all(file.stat().st_size <= 2000 for file in files)


MAIN = """
import sys
from pathlib import Path
from fedward.deploy.supervise import Service, Supervisor
child = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
service = Service("one", child, {{}}, Path({log!r}))
supervisor = Supervisor([service], lambda line: print(line, flush=True))
sys.exit(supervisor.run())
"""


@contextmanager
def separate_supervisor(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a supervisor of its own process; yield it and the process id of its service."""
    code = MAIN.format(log=str(folder / "one.log"))
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        started = parent.stdout.readline()
        assert parent.stdout.readline() == "one: here\n"
        yield parent, int(started.split("process ")[1].rstrip(")\n"))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_services_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with separate_supervisor(tmp_path) as (parent, pid):
        assert is_alive(pid)
        parent.kill()
        wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_services_and_the_exit_code_is_zero(
    tmp_path: Path, number: signal.Signals
) -> None:
    with separate_supervisor(tmp_path) as (parent, pid):
        parent.send_signal(number)
        assert parent.wait(30) == 0
        assert not is_alive(pid)
