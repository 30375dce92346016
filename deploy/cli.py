"""The `fedward` command."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from fedward.simulations import cli as simulate_cli

EXAMPLES = """\
examples:
  fedward simulate                    hospitals learn together on this machine, with a report
  fedward simulate heart_disease      four real hospitals
  fedward report runs/latest          rebuild report, plots and model card of a run
  fedward data list                   public data sets that the shipped configurations use

exit codes: 0 ok, 2 configuration, 3 site data, 4 network, 5 quorum lost, 6 privacy budget spent,
7 storage, 70 a bug
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    return simulate_cli.guarded(lambda: command(args))


def _parser() -> argparse.ArgumentParser:
    parser = _make(argparse.ArgumentParser, prog="fedward", description=_ABOUT, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"fedward {version('fedward')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    simulate = _make(
        commands.add_parser,
        "simulate",
        help="many sites on one machine or a Ray cluster",
        description=simulate_cli.__doc__,
        epilog=simulate_cli.EXAMPLES,
    )
    simulate_cli.add_arguments(simulate)
    simulate.set_defaults(command=simulate_cli.run)

    report = _make(
        commands.add_parser,
        "report",
        help="rebuild report.html, plots and model card of a run",
        epilog="example:\n  fedward report latest",
    )
    report.add_argument("run", metavar="RUN", help="a run's folder, its name, or `latest`")
    report.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")
    report.set_defaults(command=_report)

    data = _make(
        commands.add_parser,
        "data",
        help="public data sets that the shipped configurations know",
        epilog="examples:\n  fedward data list\n  fedward data fetch heart-disease",
    )
    verbs = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = verbs.add_parser("list", help="names, licences, and whether a copy is here")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(command=_data_list)
    fetch = verbs.add_parser("fetch", help="download from the public home, convert and verify")
    fetch.add_argument("name", metavar="NAME", help="as `fedward data list` shows it")
    fetch.add_argument(
        "--to", type=Path, metavar="DIR", help="default: $FEDWARD_DATA_DIR or ~/.cache/fedward"
    )
    fetch.set_defaults(command=_data_fetch)
    return parser


def _make(
    make: Callable[..., argparse.ArgumentParser], *names: str, **keys: object
) -> argparse.ArgumentParser:
    return make(*names, formatter_class=argparse.RawDescriptionHelpFormatter, **keys)


def _report(args: argparse.Namespace) -> int:
    from fedward.server.report import build_report, write_model_card, write_plots
    from fedward.simulations.simulate import find_run

    folder = find_run(args.run, args.out)
    page = build_report(folder)
    write_plots(folder)
    write_model_card(folder)
    print(page)
    return 0


def _data_list(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import list_data_sets

    found = list_data_sets()
    if args.json:
        print(json.dumps([entry.as_dict() for entry in found], indent=1))
        return 0
    for entry in found:
        where = entry.local_path or f"not here; fedward data fetch {entry.name}"
        print(f"{entry.name}\n  {entry.title}\n  licence: {entry.licence}\n  {where}")
    return 0


def _data_fetch(args: argparse.Namespace) -> int:
    from fedward.client.data.catalogue import fetch

    path = fetch(args.name, to=args.to, progress=lambda text: print(text, file=sys.stderr))
    print(path)
    return 0


_ABOUT = "Federated, privacy-preserving learning across hospitals."
