"""The `fedward` command."""

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import version

from fedward.deploy.commands import (
    approve,
    audit,
    compare,
    data,
    export,
    federation,
    keys,
    model,
    monitor,
    operators,
    pages,
    plan,
    privacy,
    runs,
    scenarios,
    site,
    stopping,
    synth,
)
from fedward.simulations.cli import guarded

EXAMPLES = """\
examples:
  fedward simulate                    hospitals learn together on this machine, with a report
  fedward simulate heart_disease      four real hospitals
  fedward report runs/latest          rebuild report, plots and model card of a run
  fedward monitor runs/latest         the live page of a run, in a browser
  fedward enroll --site site.yaml     at a hospital: make its key
  fedward provision consortium.yaml --out kits      at the coordinator: kits for everybody
  fedward check site.yaml             can this hospital join?
  fedward server --kit kits/server --state state    the coordinator
  fedward client --kit kits/site-a --site site.yaml the hospital
  fedward submit run.yaml --kit kits/operator-anna --key anna.key --wait
  fedward privacy status --site site.yaml           what was spent of the patients' privacy
  fedward data list                   public data sets that the shipped configurations use
  fedward synth phantom --out DIR     CT phantoms with known truth

exit codes: 0 ok, 2 configuration, 3 site data, 4 network, 5 quorum lost, 6 privacy budget spent,
7 storage, 70 a bug
"""
_ABOUT = "Federated, privacy-preserving learning across hospitals."
_GROUPS = (
    runs,
    scenarios,
    monitor,
    export,
    keys,
    federation,
    operators,
    site,
    approve,
    audit,
    privacy,
    model,
    compare,
    stopping,
    plan,
    pages,
    data,
    synth,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    return guarded(lambda: command(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedward",
        description=_ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedward {version('fedward')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add(commands)
    return parser
