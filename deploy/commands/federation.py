"""`fedward server` and `fedward client`: the two that keep running."""

import argparse
import datetime
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.common.errors import ConfigError, SiteDataError, StorageError
from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.common.config.site import LoadedSite
    from fedward.common.kit import Kit

SUPERNODE_PORT = 9094
_FATAL = {
    # Their own exit codes. The SuperNode is Flower's: it is started again whatever it says.
    "worker": frozenset({ConfigError.exit_code, SiteDataError.exit_code}),
    # Started alone it may come before the SuperNode has made their shared secret: tried again.
    "runner": frozenset({ConfigError.exit_code}),
}
# After a crash the SuperLink takes a site back once its heartbeats were missed, within 60 s: asked
# often until then, seldom later (a revoked key, say).
_WAITS_S = {"supernode": (2, 8, 8, 8, 8, 8, 8, 8, 30)}
_ALONE = {"worker": _FATAL["worker"]}


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    server = add_command(
        commands,
        "server",
        _server,
        about="the coordinator: keep it running",
        examples="  fedward server --kit kits/server --state /var/lib/fedward",
    )
    server.add_argument(
        "--kit", type=Path, required=True, metavar="KIT", help="the server's folder"
    )
    server.add_argument(
        "--state", type=Path, required=True, metavar="DIR", help="runs, logs and bookkeeping"
    )
    server.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="for hospitals and operators; default: all addresses, the port in the roster",
    )
    client = add_command(
        commands,
        "client",
        _client,
        about="a hospital's side: keep it running",
        examples="  fedward client --kit kits/site-hospital-a --site site.yaml",
    )
    client.add_argument("--kit", type=Path, required=True, metavar="KIT", help="the site's folder")
    client.add_argument("--site", type=Path, required=True, metavar="FILE", help="site.yaml")
    client.add_argument(
        "--only",
        choices=["worker", "runner", "supernode"],
        help="one of the three processes, where each has its own user",
    )
    client.add_argument(
        "--port",
        type=int,
        metavar="PORT",
        help="between SuperNode and runner, on this machine only; "
        f"default: a free one, with --only {SUPERNODE_PORT}",
    )


def _server(args: argparse.Namespace) -> int:
    from fedward.common.keys import write_private
    from fedward.common.kit import load_kit
    from fedward.deploy.bundle import bundle
    from fedward.deploy.supervise import Service, Supervisor
    from fedward.server.link.conductor import conductor_command
    from fedward.server.link.front import front_command
    from fedward.server.link.superlink import environment, superlink_command, superlink_port

    kit = load_kit(args.kit.absolute(), "server")
    _warn_of_expiry(kit)
    state = _own_folder(args.state)
    listen = args.listen or f"0.0.0.0:{kit.port}"
    superlink = f"127.0.0.1:{superlink_port(state)}"
    argv, env = superlink_command(kit, state, superlink)
    bundle_file = state / "bundle.fab"
    write_private(bundle_file, bundle())
    logs = state / "logs"
    _say(f"coordinator of {kit.consortium}, {listen}; Ctrl-C ends it, runs go on at the next start")
    ours = {
        "front": front_command(kit, listen, superlink),
        "conductor": conductor_command(kit, state, superlink, bundle_file),
    }
    fatal = frozenset({ConfigError.exit_code})
    services = [Service("superlink", argv, env, logs / "superlink.log")] + [
        Service(name, command, environment(state), logs / f"{name}.log", fatal_codes=fatal)
        for name, command in ours.items()
    ]
    return Supervisor(services, _say).run()


def _client(args: argparse.Namespace) -> int:
    from fedward.client.resident.commands import logs_folder, site_processes
    from fedward.common.config.site import load_site_config
    from fedward.common.kit import load_kit
    from fedward.deploy.bundle import bundle_hash
    from fedward.deploy.supervise import WAITS_S, Service, Supervisor

    site, kit = load_site_config(args.site), load_kit(args.kit.absolute(), "site")
    _warn_of_expiry(kit)
    if args.only in {None, "worker"}:  # the others may not read the patients' files
        _check(site, kit, reads_key=args.only is None)
    fatal = _ALONE if args.only else _FATAL
    port = args.port or (SUPERNODE_PORT if args.only else _free_port())
    processes = site_processes(site, kit, accept=bundle_hash(), port=port, only=args.only)
    logs = logs_folder(site)
    services = [
        Service(
            process.name,
            process.argv,
            process.env,
            logs / f"{process.name}.log",
            backoff_s=_WAITS_S.get(process.name, WAITS_S),
            fatal_codes=fatal.get(process.name, frozenset()),
        )
        for process in processes
    ]
    _say(f"site {kit.name} of {kit.consortium}, coordinator {kit.address}; Ctrl-C ends it")
    return Supervisor(services, _say).run()


def _check(site: "LoadedSite", kit: "Kit", *, reads_key: bool) -> None:
    """Look at the site before anything starts; what fails stops the start."""
    from fedward.client.check import check_site

    looked = check_site(site, kit, online=False, reads_key=reads_key)
    found = [one for one in looked if one.status != "ok"]
    for one in found:
        _say(f"{one.status}: {one.name}: {one.text}{one.advice and '; '}{one.advice}")
    failed = [one for one in found if one.status == "fail"]
    if failed:
        kind = SiteDataError if any(one.name.startswith("data") for one in failed) else ConfigError
        raise kind(f"{site.path}: not started; put right what is named above, then `fedward check`")


def _warn_of_expiry(kit: "Kit") -> None:
    from fedward.common.kit import expiry_warning

    warning = expiry_warning(kit, datetime.datetime.now(datetime.UTC))
    if warning is not None:
        _say(f"warning: {warning}")


def _own_folder(path: Path) -> Path:
    folder = path.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--state {folder}: {error.strerror}") from error
    return folder


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
