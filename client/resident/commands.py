"""The three processes of a site, as commands, and the folder that they share.

Their secret for each other, the certificate of the loopback address and the worker's socket lie in
`state/` beside site.yaml, or in the folder that FEDWARD_STATE names. For one user that folder is
closed to everybody else. Where each process has its own user, it is made beforehand with the
set-group bit: what is made in it is then readable by the group, each process is started alone, and
FEDWARD_RUNNER_USER tells the worker who may ask it. Neither variable holds a secret.
"""

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import loopback_certificate, write_private
from fedward.common.kit import Kit
from fedward.common.processes import GIVES_BACK_MEMORY

STATE = "state"
WORKER, RUNNER, SUPERNODE = "worker", "runner", "supernode"
_SECRET_BYTES = 32
_PLACE, _PEER = "FEDWARD_STATE", "FEDWARD_RUNNER_USER"
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_PASSES_ON = _QUIET | GIVES_BACK_MEMORY


@dataclass(frozen=True)
class SiteProcess:
    """One of the site's processes; no secret is in its arguments or its environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """To be added to the environment that it is started in."""


@dataclass(frozen=True)
class StateFolder:
    """What the three processes share."""

    folder: Path
    secret: Path
    certificate: Path
    certificate_key: Path
    roots: Path
    socket: Path


def site_processes(
    site: LoadedSite, kit: Kit, *, accept: str, port: int, only: str | None = None
) -> list[SiteProcess]:
    """Return worker, runner and SuperNode, in the order in which to start them.

    Args:
        site: whose site.yaml's folder gets the shared files.
        kit: as the coordinator gave it.
        accept: SHA-256 of the one bundle that this version of fedward knows.
        port: of the loopback address, between SuperNode and runner.
        only: the name of one of them, to be started alone; only its own files are made.

    Raises:
        ConfigError: the state folder is open to everybody.
        StorageError: the shared files cannot be written.
    """
    shared = prepare_state(site, kit, only=only)
    address = f"127.0.0.1:{port}"
    worker = _module(
        WORKER, "--site", site.path, "--kit", kit.folder.absolute(), "--socket", shared.socket
    )
    if os.environ.get(_PEER):
        worker += ["--peer-uid", os.environ[_PEER]]
    runner = _module(
        RUNNER, "--runtime", address, "--ca", shared.certificate, "--secret", shared.secret,
        "--accept", accept, "--socket", shared.socket,
    )  # fmt: skip
    processes = [
        SiteProcess(WORKER, tuple(worker), _QUIET),
        # The runner speaks with the loopback address only: no proxy of the machine is asked.
        SiteProcess(RUNNER, tuple(runner), _PASSES_ON | {"NO_PROXY": "*", "no_proxy": "*"}),
        _supernode(site, kit, shared, port),
    ]
    return [process for process in processes if only in {None, process.name}]


def _supernode(site: LoadedSite, kit: Kit, shared: StateFolder, port: int) -> SiteProcess:
    argv = [
        *_module("supernode"),
        "--superlink", kit.address, "--root-certificates", shared.roots,
        "--auth-supernode-private-key", site.file(site.config.key_file),
        "--isolation", "process", "--host", "127.0.0.1", "--port", port,
        "--superexec-auth-secret-file", shared.secret,
        "--ssl-ca-certfile", shared.certificate, "--ssl-certfile", shared.certificate,
        "--ssl-keyfile", shared.certificate_key,
    ]  # fmt: skip
    out = {"FLWR_HOME": str(shared.folder / "flwr")}
    if site.config.proxy:
        # The SuperNode itself dials nobody but the server, wherever that is.
        out |= {"HTTPS_PROXY": site.config.proxy, "https_proxy": site.config.proxy}
        out |= {"NO_PROXY": "", "no_proxy": ""}
    return SiteProcess(SUPERNODE, tuple(map(str, argv)), _PASSES_ON | out)


def state_folder(site: LoadedSite) -> Path:
    """Return where the shared files of a site lie."""
    return Path(os.environ.get(_PLACE) or site.file(STATE)).absolute()


def logs_folder(site: LoadedSite) -> Path:
    """Return where the three processes of a site write what they say."""
    return site.file("logs")


def prepare_state(site: LoadedSite, kit: Kit, *, only: str | None = None) -> StateFolder:
    """Return the shared files, made where there are none.

    Args:
        site: whose folder it is.
        kit: whose authority the SuperNode trusts.
        only: the one process that is to be started by this user.

    Raises:
        ConfigError: the folder is open to everybody, or a trusted certificate cannot be read.
        StorageError: it cannot be written.
    """
    folder = state_folder(site)
    shared = StateFolder(
        folder, folder / "superexec.secret", folder / "loopback.crt", folder / "loopback.key",
        folder / "roots.crt" if site.config.ca_file else kit.ca_file.absolute(),
        folder / "socket" / "worker.sock",
    )  # fmt: skip
    try:
        is_shared = _own_folder(folder, 0o700)
        if only in {None, WORKER}:
            _own_folder(shared.socket.parent, 0o770)
        if only in {None, SUPERNODE}:
            _own_folder(folder / "flwr", 0o700)
            with contextlib.suppress(FileExistsError):
                write_private(shared.secret, secrets.token_bytes(_SECRET_BYTES), replace=False)
            if not is_shared or not shared.certificate_key.exists():
                loopback_certificate(folder)
            _write_roots(site, kit, shared.roots)
            if is_shared:
                _let_group_read(shared.secret, shared.certificate)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be prepared: {error.strerror}") from error
    return shared


def _own_folder(folder: Path, mode: int) -> bool:
    """Make the folder if needed; return whether a group shares it."""
    folder.mkdir(mode=mode, exist_ok=True)
    found = folder.stat().st_mode
    if found & 0o007:
        raise ConfigError(
            f"{folder}: is open to every user of this machine (mode {stat.S_IMODE(found):04o}); "
            f"chmod o= {folder}"
        )
    return bool(found & stat.S_ISGID)


def _write_roots(site: LoadedSite, kit: Kit, path: Path) -> None:
    """Write the authorities that the SuperNode trusts, if the site adds one to the kit's."""
    further = site.config.ca_file
    if further is None:
        return
    try:
        wanted = kit.ca_file.read_bytes() + b"\n" + site.file(further).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{site.where('ca_file')}: ca_file: {error.filename}: {error.strerror}"
        ) from error
    if not path.exists() or path.read_bytes() != wanted:
        write_private(path, wanted)


def _let_group_read(*paths: Path) -> None:
    for path in paths:
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & stat.S_IRGRP:
            path.chmod(0o640)


def _module(name: str, *arguments: object) -> list[str]:
    # -I: neither the working directory nor PYTHONPATH can put another module in the way.
    start = [sys.executable, "-I", "-m", f"fedward.client.resident.{name}"]
    return start + [str(argument) for argument in arguments]
