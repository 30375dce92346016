"""`fedward server`, `submit`, `runs`, `stop` and `logs` as real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedward.common.keys import make_key
from fedward.deploy.cli import main
from fedward.simulations.cli import find_config
from tests.server.coordinator import Coordinator, free_port, wait_until

pytestmark = [pytest.mark.network, pytest.mark.slow]
RUN = find_config("heart_disease")


@dataclass
class Server:
    """`fedward server` and what it has shown."""

    coordinator: Coordinator
    process: subprocess.Popen[bytes]
    output: Path

    def pid(self, word: str) -> int | None:
        """Return the process id of a child that has `word` on its command line."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if word in " ".join(child.cmdline()):
                    return child.pid
        return None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    coordinator = Coordinator(folder, free_port())
    coordinator.provision("hospital-a")
    output = folder / "server.out"
    command = [str(Path(sys.executable).with_name("fedward")), "server"]
    command += ["--kit", str(coordinator.kit.folder), "--state", str(coordinator.state)]
    command += ["--listen", coordinator.address]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ})
    server = Server(coordinator, process, output)
    wait_until(lambda: "site hospital-a: registered" in output.read_text())
    yield server
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def fedward(server: Server, *arguments: str) -> int:
    """Run an operator's command in this process and return its exit code."""
    key = [] if "--key" in arguments else ["--key", str(server.coordinator.folder / "anna.key")]
    return main([*arguments, *key, "--kit", str(server.coordinator.operator_kit.folder)])


def submit(server: Server, capsys: pytest.CaptureFixture[str]) -> str:
    """Submit a run and return its short name."""
    code = fedward(server, "submit", str(RUN), "--set", "baselines=[]", "--json")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return str(json.loads(captured.out)["run"])


def listed(server: Server, capsys: pytest.CaptureFixture[str], run: str) -> dict[str, Any]:
    assert fedward(server, "runs", "--json") == 0
    (one,) = [one for one in json.loads(capsys.readouterr().out) if one["run"] == run]
    return dict(one)


def said(server: Server, capsys: pytest.CaptureFixture[str], run: str) -> str:
    assert fedward(server, "logs", run) == 0
    return capsys.readouterr().out


def test_a_run_survives_crashes_until_its_operator_stops_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    run = submit(server, capsys)
    wait_until(lambda: listed(server, capsys, run)["state"] == "running")
    superlink, child = server.pid("flower-superlink"), server.pid("run_process")
    assert superlink is not None
    assert child is not None
    os.kill(superlink, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: server.pid("run_process") not in {None, child}, within_s=120)
    wait_until(lambda: server.output.read_text().count("superlink: started") == 2)
    assert "superlink: was killed by signal 9; starts again in 1 s" in server.output.read_text()
    wait_until(lambda: len(listed(server, capsys, run)["flower_runs"]) == 2)
    wait_until(lambda: said(server, capsys, run))
    front, child = server.pid("link.front"), server.pid("run_process")
    assert front is not None
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: server.pid("link.front") not in {None, front})
    wait_until(lambda: fedward(server, "runs") == 0)
    assert server.pid("run_process") == child  # a run does not need the front
    assert fedward(server, "stop", run) == 0
    assert f"{run}  stopped" in capsys.readouterr().out
    assert fedward(server, "stop", run) == 2
    assert "is over already" in capsys.readouterr().err
    assert f"request {run}" in said(server, capsys, run)
    assert fedward(server, "logs", run, "--follow") == 130


def test_a_run_that_nobody_knows_is_named(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedward(server, "logs", "ffffffff") == 2
    assert "no run of that name" in capsys.readouterr().err


def test_another_operators_key_is_noticed_before_anything_is_sent(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = server.coordinator.folder
    make_key(folder / "eve.key")
    code = fedward(server, "submit", str(RUN), "--key", str(folder / "eve.key"))
    assert code == 4
    assert "not the key of operator anna" in capsys.readouterr().err


def test_only_the_front_can_be_reached_from_another_machine(server: Server) -> None:
    listening = {
        (connection.laddr.ip, child.pid)
        for child in psutil.Process(server.process.pid).children(recursive=True)
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    # Tests listen on the loopback address; only the front was told where.
    assert {ip for ip, pid in listening if pid != server.pid("link.front")} == {"127.0.0.1"}
    ports = {
        c.laddr.port
        for c in psutil.Process(server.pid("link.front")).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert ports == {server.coordinator.port}


def test_the_coordinators_folder_holds_no_readable_secret(server: Server) -> None:
    state = server.coordinator.state
    assert state.stat().st_mode & 0o077 == 0
    secret = (state / "superexec.secret").read_bytes()
    for child in psutil.Process(server.process.pid).children(recursive=True):
        assert secret.hex() not in " ".join(child.cmdline())
        assert secret.hex() not in str(child.environ())
    assert secret.hex() not in server.output.read_text()


def test_a_server_without_its_kit_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["server", "--kit", str(tmp_path), "--state", str(tmp_path / "state")]) == 2
    assert "fedward provision" in capsys.readouterr().err
