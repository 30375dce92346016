"""A real federation: the commands that hospitals type, as real processes on the loopback interface.

    with Federation(["aachen", "bern", "cork"]) as federation:
        run = federation.submit(rounds=5)
        federation.site("bern").kill("worker")
        run.wait_round(5)

Every site reaches the server through a proxy of its own, so that each can be cut off alone.
"""

import copy
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from fedward.server.link.superlink import wait_healthy
from tests.faults.connect_proxy import ConnectProxy
from tests.faults.hospitals import NUM_PATIENTS, write_rows
from tests.faults.processes import Tree, run_command, wait_for
from tests.faults.run_folder import RunFolder
from tests.faults.tcp_proxy import TcpProxy, Terminated

FEDWARD = str(Path(sys.executable).with_name("fedward"))
OPERATOR = "ada"
RUN: dict[str, Any] = {
    "version": 1,
    "name": "faults",
    "seed": 7,
    "task": "ehr-classification",
    "data": {"schema": "heart-disease", "statistics": "federated"},
    "model": {"name": "logistic-regression"},
    "strategy": {"name": "fedavg"},
    "rounds": 5,
    "local": {"epochs": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.05},
    "sampling": {
        "min_replies": 2,
        "deadline_s": 60.0,
        "max_skipped_rounds": 20,
        "wait_for_sites_s": 90.0,
    },
}
SLOW_LOCAL = {"epochs": 80, "batch_size": 1}
"""Local work of some seconds, so that a round has a middle."""
Settings = dict[str, Any]


class Site:
    """One hospital: its folder, its kit, its way to the server, and its `fedward client`."""

    def __init__(self, name: str, folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.env = {**env, "HOME": str(folder)}
        self.kit = folder / "kit"
        self.file = folder / "site.yaml"
        self.settings: Settings = {
            "version": 1,
            "site": name,
            "data": {"path": "rows.csv", "format": "table", "schema": "heart-disease"},
            "key_file": "site.key",
            "id_salt_file": "id-salt",
            "database": "site.sqlite",
            "device": "cpu",
            "approve": "any",
            "limits": {"epochs": 100_000, "min_replies": 2},
            "min_cohort": 5,
        }
        self.prefix: list[str] = []
        """What stands before each command, such as the way into a network cell."""
        self.way: ConnectProxy | None = None
        self.tree: Tree | None = None

    def write(self) -> None:
        """Write `site.yaml` as the settings are now."""
        self.file.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    def start(self, *arguments: str) -> Self:
        """Start `fedward client`, with further arguments such as `--only worker`."""
        command = [FEDWARD, "client", "--kit", str(self.kit), "--site", str(self.file), *arguments]
        self.tree = Tree([*self.prefix, *command], self.folder / "client.log", self.env).start()
        return self

    def part(self, name: str) -> Any:
        """Return the process of `worker`, `runner` or `supernode`, or None."""
        return self._tree.part(name)

    def kill(self, part: str | None = None) -> int:
        """Kill one part, or the whole client (its parts die with it)."""
        return self._tree.kill(part)

    def stop(self) -> None:
        """End the client, if it runs."""
        if self.tree is not None:
            self.tree.stop()
            self.tree = None

    @property
    def log(self) -> str:
        """Everything that the site's processes have said."""
        texts = [path.read_text("utf-8", "replace") for path in sorted(self.folder.rglob("*.log"))]
        return "\n".join(texts)

    def num_started(self) -> int:
        """Return how many training messages the site has begun, by its own ledger."""
        database = self.folder / "site.sqlite"
        if not database.exists():
            return 0
        uri = f"file:{database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            try:
                row = connection.execute(
                    "SELECT count(*) FROM messages WHERE phase = 'train'"
                ).fetchone()
            except sqlite3.OperationalError:  # no message has come yet
                return 0
        return int(row[0])

    def wait_training(self, within_s: float = 90) -> None:
        """Return as soon as the site begins another training."""
        before = self.num_started()
        wait_for(
            lambda: self.num_started() > before,
            f"{self.name} to train",
            within_s=within_s,
            every_s=0.05,
        )

    @property
    def _tree(self) -> Tree:
        assert self.tree is not None, f"{self.name} is not running"
        return self.tree


class Federation:
    """A coordinator and some sites in one temporary folder."""

    def __init__(
        self,
        sites: Sequence[str] = ("aachen", "bern", "cork"),
        *,
        adjust: Callable[[Site], None] = lambda site: None,
        records: bool = False,
        host: str = "127.0.0.1",
        keep: bool = False,
    ) -> None:
        """Choose the sites; nothing happens before `start`.

        Args:
            sites: names from `NUM_PATIENTS`.
            adjust: may change a site's settings before it is enrolled.
            records: put a proxy in front of the server that ends TLS with the server's own key
                and writes down what is said.
            host: under which the sites reach the server.
            keep: leave the folder behind.
        """
        # Short: the path of a Unix socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="fw-"))
        self.keep = keep
        self.env = {
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.folder),
            "FLWR_HOME": str(self.folder / "flwr"),
            "PYTHONUNBUFFERED": "1",
        }
        self.names = list(sites)
        self.host = host
        self.port = free_port()
        self.listen_port = free_port() if records else self.port
        self.tap: TcpProxy | None = None
        self.kits = self.folder / "kits"
        self.state = self.folder / "state"
        self.server: Tree | None = None
        self.sites: dict[str, Site] = {}
        self._adjust = adjust
        self._num_submitted = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self.last_words())
        self.close()

    def start(self) -> Self:
        """Enrol, provision, start the server and all sites, and wait until they are online."""
        try:
            self.prepare()
            self.start_server()
            for site in self.sites.values():
                site.start()
            self.wait_online(self.names)
        except BaseException as error:
            error.add_note(self.last_words())
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop everything and remove the folder."""
        for site in self.sites.values():
            site.stop()
        if self.server is not None:
            self.server.stop()
            self.server = None
        for site in self.sites.values():
            if site.way is not None:
                site.way.stop()
        if self.tap is not None:
            self.tap.stop()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self) -> None:
        """Make keys, kits and configurations; nothing runs yet."""
        for name in self.names:
            self.add_site(name)
        self.fedward("enroll", "--operator", OPERATOR, "--key", str(self.operator_key))
        self.provision()

    def add_site(self, name: str) -> Site:
        """Make one hospital with patients and a key of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        site = Site(name, folder, self.env)
        site.way = ConnectProxy([(self.host, self.port)]).start()
        site.settings["proxy"] = site.way.url
        write_rows(folder / "rows.csv", name)
        self._adjust(site)
        site.write()
        self.sites[name] = site
        self.fedward("enroll", "--site", str(site.file))
        return site

    @property
    def address(self) -> str:
        """host:port of the server, as the roster says it."""
        return f"{self.host}:{self.port}"

    @property
    def operator_key(self) -> Path:
        """The operator's private key."""
        return self.folder / "operator.key"

    def provision(self, *arguments: str) -> None:
        """Write `consortium.yaml`, make the kits, and let every site pin the roster."""
        consortium = {
            "version": 1,
            "name": "faults",
            "server": {"address": self.address, "names": ["localhost", "127.0.0.1"]},
            "operators": [{"name": OPERATOR, "public_key": public_text_of(self.operator_key)}],
            "sites": [
                {
                    "name": site.name,
                    "public_key": public_text_of(site.folder / "site.key"),
                    "cohort_bound": NUM_PATIENTS[site.name],
                }
                for site in self.sites.values()
            ],
        }
        file = self.folder / "consortium.yaml"
        file.write_text(yaml.safe_dump(consortium), encoding="utf-8")
        self.fedward("provision", str(file), "--out", str(self.kits), *arguments)
        self.hand_out_kits()

    def hand_out_kits(self) -> None:
        """Copy every site's kit to the site, which pins the roster that it holds."""
        from fedward.common.kit import load_kit

        for site in self.sites.values():
            kit = self.kits / f"site-{site.name}"
            if not kit.exists():  # revoked
                continue
            shutil.rmtree(site.kit, ignore_errors=True)
            shutil.copytree(kit, site.kit)
            pin = load_kit(site.kit, "site").roster.fingerprint
            approve = ["approve", "roster", "--site", str(site.file), "--kit", str(site.kit)]
            self.fedward(*approve, "--fingerprint", pin, "--yes")

    def fedward(self, *arguments: str, within_s: float = 120) -> str:
        """Run a fedward command to its end and return what it printed."""
        return run_command([FEDWARD, *arguments], self.env, within_s=within_s)

    def start_server(self) -> None:
        """Start `fedward server`, and return when it answers."""
        command = [FEDWARD, "server", "--kit", str(self.kits / "server"), "--state"]
        command += [str(self.state), "--listen", f"127.0.0.1:{self.listen_port}"]
        self.server = Tree(command, self.folder / "server.log", self.env).start()
        wait_for(lambda: answers(self.listen_port), "the server's port", within_s=60)
        ca = (self.kits / "server" / "ca.crt").read_bytes()
        wait_healthy(f"127.0.0.1:{self.listen_port}", ca, within_s=60)
        if self.listen_port != self.port and self.tap is None:
            kit = self.kits / "server"
            tls = Terminated(kit / "server.crt", kit / "server.key", kit / "ca.crt")
            there = ("127.0.0.1", self.listen_port)
            self.tap = TcpProxy(
                there, host="0.0.0.0", port=self.port, records=True, tls=tls
            ).start()

    def stop_server(self) -> None:
        """End the server."""
        assert self.server is not None
        self.server.stop()

    def kill_server(self, part: str | None = None) -> int:
        """Kill one part of the server, or all of it."""
        assert self.server is not None
        return self.server.kill(part)

    def site(self, name: str) -> Site:
        """Return one hospital."""
        return self.sites[name]

    def wait_online(self, names: Sequence[str], within_s: float = 120) -> None:
        """Return when all of these sites have a SuperNode that is active."""
        wait_for(
            lambda: all(is_connected(self.sites[name]) for name in names),
            f"{', '.join(names)} to be connected",
            within_s=within_s,
            every_s=0.5,
        )

    @property
    def operator_kit(self) -> Path:
        """The operator's kit."""
        return self.kits / f"operator-{OPERATOR}"

    @property
    def as_operator(self) -> list[str]:
        """The options that say who the operator is."""
        return ["--kit", str(self.operator_kit), "--key", str(self.operator_key)]

    def submit(self, **changes: Any) -> RunFolder:
        """Submit the standard run with changes, and return its folder at the coordinator."""
        self._num_submitted += 1
        config = copy.deepcopy(RUN)
        config["name"] = f"faults-{self._num_submitted}"
        for key, value in changes.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        if "steps" in config["local"]:
            config["local"].pop("epochs", None)
        file = self.folder / f"run-{self._num_submitted}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        known = set(self.run_folders())
        self.fedward("submit", str(file), *self.as_operator)
        folder = wait_for(
            lambda: sorted(set(self.run_folders()) - known), "the run's folder", within_s=60
        )[0]
        return RunFolder(folder, config)

    def stop_run(self, run: RunFolder) -> None:
        """Let the operator stop a run that has served its purpose."""
        self.fedward("stop", run.status["request"][:8], *self.as_operator)

    def run_folders(self) -> list[Path]:
        """Return the folders of all runs so far."""
        runs = self.state / "runs"
        if not runs.exists():
            return []
        return [path for path in runs.iterdir() if path.is_dir() and not path.is_symlink()]

    def last_words(self, num_lines: int = 25) -> str:
        """Return the ends of all logs, for the message of a failed case."""
        # Below `logs` the same lines stand once more.
        logs = sorted(p for p in self.folder.rglob("*.log") if p.parent.name != "logs")
        parts = [f"--- {p.relative_to(self.folder)}\n{_tail(p, num_lines)}" for p in logs]
        return "\n".join(parts)


def public_text_of(key: Path) -> str:
    """Return the public half of a private key."""
    from fedward.common.keys import load_key, public_text

    return public_text(load_key(key))


def is_connected(site: Site) -> bool:
    """Return whether worker and runner are ready and the SuperNode has been activated."""
    is_active = site.way is None or site.way.num_bytes[1] > 2000 or bool(site.prefix)
    return is_active and "runner ready" in site.log


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Return whether somebody listens on the port."""
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0


def _tail(path: Path, num_lines: int) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-num_lines:])
