"""`fedward export`: a run's history for the tools in which people compare experiments."""

import argparse
import json
import sys
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command
from fedward.deploy.progress import progress_bar

EXAMPLES = """\
  fedward export latest --to tensorboard --out curves
  tensorboard --logdir curves --samples_per_plugin images=0
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    export = add_command(
        commands,
        "export",
        _export,
        about="losses, figures and monitoring of a run as event files of TensorBoard",
        examples=EXAMPLES,
    )
    export.add_argument("run", metavar="RUN", help="a run's folder, its name, or `latest`")
    export.add_argument(
        "--to", choices=["tensorboard"], default="tensorboard", help="the only one (default)"
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    export.add_argument("--json", action="store_true", help="for scripts")


def _export(args: argparse.Namespace) -> int:
    from fedward.server.export import export_tensorboard
    from fedward.simulations.simulate import find_run

    run = find_run(args.run, args.runs)
    with progress_bar("sites") as on_site:
        done = export_tensorboard(run, args.out, on_site=on_site)
    if args.json:
        answer = {
            "folder": str(done.folder),
            "sites": done.num_sites,
            "scalars": done.num_scalars,
            "pictures": done.num_pictures,
            "all_pictures": done.are_pictures_all,
        }
        print(json.dumps(answer, indent=1))
        return 0
    maps = f", {done.num_pictures} covariance maps" if done.num_pictures else ""
    few = "" if done.are_pictures_all else " (not all that were kept: they would be too many)"
    print(f"{done.num_sites} sites, {done.num_scalars} values{maps}{few}", file=sys.stderr)
    print(done.folder)
    return 0
