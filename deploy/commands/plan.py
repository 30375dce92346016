"""`fedward plan`: one nnU-Net for all sites, planned from what their scans have in common."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.common.config.run import RunConfig
    from fedward.common.task import Statistics

EXAMPLES = """\
  fedward plan run.yaml --out planned.yaml      on this machine
  fedward simulate planned.yaml

  fedward plan run.yaml --fingerprint fingerprint.yaml      at hospitals: make the first run,
  fedward submit fingerprint.yaml --kit KIT --key KEY --wait   have it run, then plan from it
  fedward plan run.yaml --from RUN --out planned.yaml
"""
GIB = 2**30


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    plan = add_command(
        commands,
        "plan",
        _plan,
        about="plan an nnU-Net from the spacing, size and intensity of all sites' scans",
        examples=EXAMPLES,
    )
    plan.add_argument("config", metavar="CONFIG", help="a run with images: a file or shipped name")
    plan.add_argument("--out", type=Path, metavar="FILE", help="where the planned run is written")
    plan.add_argument(
        "--from",
        dest="run",
        metavar="RUN",
        help="a finished run of the task ct-fingerprint",
    )
    plan.add_argument(
        "--fingerprint", type=Path, metavar="FILE", help="only write the run that comes first"
    )
    plan.add_argument(
        "--memory-gib", type=float, default=8.0, help="of the smallest GPU (default: 8)"
    )
    plan.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    plan.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    plan.add_argument("--json", action="store_true", help="for scripts")


def _plan(args: argparse.Namespace) -> int:
    from fedward.client.predict import run_statistics
    from fedward.common.config.loader import load_run_config, resolved_yaml
    from fedward.common.images.plan import plan_of
    from fedward.simulations.cli import find_config
    from fedward.simulations.planning import (
        fingerprint_config,
        fingerprint_of,
        planned_config,
    )
    from fedward.simulations.simulate import find_run

    path = find_config(args.config)
    config = load_run_config(path, args.overrides).config
    if args.fingerprint is not None:
        _write(args.fingerprint, resolved_yaml(fingerprint_config(config)))
        print(args.fingerprint)
        return 0
    axes = len(config.data.image.size) if config.data.image else 3
    if args.run:
        place = find_run(args.run, args.runs)
        statistics = run_statistics(place)
    else:
        place, statistics = path, _simulated(config, path)
    found = fingerprint_of(statistics, num_axes=axes, place=place)
    plan = plan_of(found, memory_bytes=args.memory_gib * GIB)
    planned = planned_config(config, plan)
    if args.out is not None:
        _write(args.out, resolved_yaml(planned))
    if args.json:
        print(json.dumps({"patients": found.num_patients, **plan.as_config()}, indent=1))
        return 0
    print(f"of {found.num_patients} patients: median size {_row(found.size)} voxels", end="")
    print(f", spacing {_row(found.spacing_mm)} mm" if found.spacing_mm else ", spacing unknown")
    if found.intensity is not None:
        print(f"inside the structures: {found.intensity.low:.0f} to {found.intensity.high:.0f}")
    levels = len(plan.topology.kernels)
    print(f"plan: patches of {_row(plan.size)}, {levels} levels, batch {plan.batch_size}")
    if args.out is not None:
        print(args.out)
    return 0


def _simulated(config: "RunConfig", path: Path) -> "Statistics | None":
    """Return the sums of the fingerprint's run, held on this machine and left nowhere."""
    from fedward.client.predict import run_statistics
    from fedward.simulations.planning import fingerprint_config
    from fedward.simulations.simulate import simulate

    print("adding up the fingerprints of all sites", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fedward-plan-") as folder:
        run = simulate(fingerprint_config(config), base_dir=path.parent, out=Path(folder))
        return run_statistics(run.folder)


def _row(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _write(path: Path, text: str) -> None:
    from fedward.common.errors import StorageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
