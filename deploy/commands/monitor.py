"""`fedward monitor`: the live page of a run, or of the maps that runs left at a hospital."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.server.live.source import Source

EXAMPLES = """\
  fedward monitor latest                    the newest run under runs/, while it goes on
  fedward monitor state/runs/NAME           a run of the federation, at the coordinator
  fedward monitor site.yaml                 at a hospital: its own covariance maps
  fedward monitor latest --port 0           on any port that is free
"""
DEFAULT_PORT = 8050
SITE_FILE = "site.yaml"
MAPS_DIR = "cme"


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    monitor = add_command(
        commands,
        "monitor",
        _monitor,
        about="the live page of a run, in a browser on this machine",
        examples=EXAMPLES,
    )
    monitor.add_argument(
        "place",
        metavar="DIR",
        help="a run's folder, its name, or `latest`; at a hospital its site.yaml or the folder "
        "that holds it",
    )
    monitor.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")
    monitor.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: 8050; 0: any")
    monitor.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only); there is no login",
    )
    monitor.add_argument(
        "--interval",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks at the folder (default: 2)",
    )


def _monitor(args: argparse.Namespace) -> int:
    from fedward.server.live.guard import is_loopback
    from fedward.server.live.serve import open_server, serve

    source = source_of(args.place, args.out)
    exposed = not is_loopback(args.host)
    server = open_server(source, host=args.host, port=args.port, interval_s=args.interval)
    if exposed:
        print(
            f"warning: the page has no login; whoever reaches {args.host} can see it",
            file=sys.stderr,
        )
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"{source.title}: http://{host}:{server.port}/ (end with Ctrl-C)", flush=True)
    serve(server)
    return 0


def source_of(place: str, out: Path) -> "Source":
    """Return what is followed: a hospital where `place` is one, else a run."""
    from fedward.common.config.site import load_site_config
    from fedward.server.live.source import RunSource, SiteSource
    from fedward.simulations.simulate import find_run

    path = Path(place)
    site_file = path / SITE_FILE if path.is_dir() else path
    is_run = (path / "config.yaml").exists()
    if not is_run and site_file.is_file():
        site = load_site_config(site_file)
        database = site.file(site.config.database)
        return SiteSource(database.parent / MAPS_DIR, site.config.site)
    return RunSource(find_run(place, out))
