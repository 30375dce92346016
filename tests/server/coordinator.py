"""A consortium with real keys and a real SuperLink on the loopback interface, for tests."""

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward.common.config.consortium import load_consortium
from fedward.common.keys import load_key, make_key
from fedward.common.kit import Kit, load_kit
from fedward.common.processes import follow_parent
from fedward.common.request import RunRequest, sign_request
from fedward.deploy.bundle import bundle
from fedward.deploy.provision import provision
from fedward.server.link.conductor import Conductor, Settings
from fedward.server.link.flower_control import Control
from fedward.server.link.superlink import superlink_command, wait_healthy


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Return what `condition` gives once it is true."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


@dataclass
class Coordinator:
    """A coordinator's folders and its SuperLink."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port of the SuperLink."""
        return f"127.0.0.1:{self.port}"

    @property
    def kit(self) -> Kit:
        """The server's kit."""
        return load_kit(self.folder / "kits" / "server", "server")

    @property
    def operator_kit(self) -> Kit:
        """The operator's kit."""
        return load_kit(self.folder / "kits" / "operator-anna", "operator")

    @property
    def state(self) -> Path:
        """What `fedward server` calls its state."""
        return self.folder / "state"

    @property
    def ca(self) -> bytes:
        """The authority's certificate."""
        return self.kit.ca_file.read_bytes()

    def provision(self, *sites: str) -> None:
        """Make keys where they are missing, and kits for these sites."""
        for name in ("anna", *sites):
            if not (self.folder / f"{name}.key").exists():
                public = make_key(self.folder / f"{name}.key")
                (self.folder / f"{name}.pub").write_text(public)
        members = "".join(
            f"  - {{name: {name}, public_key: {name}.pub, cohort_bound: 100}}\n" for name in sites
        )
        file = self.folder / "consortium.yaml"
        file.write_text(
            f"version: 1\nname: Test\nserver:\n  address: {self.address}\n"
            f"operators:\n  - {{name: anna, public_key: anna.pub}}\nsites:\n{members}"
        )
        now = datetime.datetime.now(datetime.UTC)
        provision(load_consortium(file), self.folder / "kits", now=now)

    def start(self) -> None:
        """Start the SuperLink and wait until it answers."""
        argv, env = superlink_command(self.kit, self.state, self.address)
        with (self.folder / "superlink.log").open("ab") as log:
            self.process = subprocess.Popen(
                follow_parent(argv), env={**os.environ, **env}, stdout=log, stderr=log
            )
        wait_healthy(self.address, self.ca, within_s=60)

    def kill(self) -> None:
        """Kill the SuperLink as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def request(self, **config: object) -> str:
        """Return a signed request; every call gives another one."""
        now = datetime.datetime.now(datetime.UTC).isoformat()
        request = RunRequest("anna", {"name": "toy", **config}, {}, now, "Test")
        return sign_request(request, load_key(self.folder / "anna.key"))

    @contextlib.contextmanager
    def control(self) -> Iterator[Control]:
        """Yield a connection to the Control API."""
        with Control(self.address, self.ca) as control:
            yield control

    def settings(self, program: Path) -> Settings:
        """Return settings with `program` in place of the real rounds."""
        import sys

        runs = (sys.executable, str(program))
        return Settings(self.folder / "kits" / "server", self.state, self.address, bundle(), runs)


@contextlib.contextmanager
def conducting(coordinator: Coordinator, program: Path) -> Iterator[Callable[..., Any]]:
    """Yield a function that lets a conductor work until a condition holds."""
    conductor = Conductor(coordinator.settings(program))

    def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
        def step() -> Any:
            conductor.step()
            return condition()

        return wait_until(step, within_s)

    try:
        yield until
    finally:
        conductor.close()
