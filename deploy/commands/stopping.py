"""`fedward stopping`: which stop rule saves work, and does CME add anything to a plateau?"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.simulations.stopping.comparison import Comparison

WIDTH = 140  # the columns are of use beside each other
EXAMPLES = """\
  fedward stopping heart_disease --set rounds=60      ten rules, five seeds, one table
  fedward stopping my/run.yaml --seeds 3 --out DIR    goes on where it was interrupted
  fedward stopping sepsis --no-rests --json           without the runs in which sites rest
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "stopping",
        _stopping,
        about="compare stop rules: each seed is trained once, every rule is replayed on it",
        examples=EXAMPLES,
    )
    parser.add_argument("config", metavar="CONFIG", help="a simulation: a file or a shipped name")
    parser.add_argument(
        "--seeds", type=int, default=5, help="at least 3, from the configuration's own on"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key; rounds should be well beyond where the validation loss turns",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: runs/stopping-NAME; recordings are kept"
    )
    parser.add_argument(
        "--no-rests", action="store_true", help="leave out the runs in which saturated sites rest"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def _stopping(args: argparse.Namespace) -> int:
    from fedward.common.config.loader import load_run_config
    from fedward.simulations.cli import find_config
    from fedward.simulations.stopping.study import Study
    from fedward.simulations.stopping.verdict import as_rows, sentences

    path = find_config(args.config)
    config = load_run_config(path, args.overrides).config
    folder = args.out or Path("runs") / f"stopping-{config.name}"
    study = Study(
        config,
        path.parent,
        folder,
        num_seeds=args.seeds,
        with_rests=not args.no_rests,
        say=_say,
    )
    comparison = study.run()
    _say("", last=True)
    if args.json:
        content = {"sentences": sentences(comparison), "rules": as_rows(comparison)}
        print(json.dumps(content, indent=1))
        return 0
    _show(config.name, comparison)
    for name in ("stopping.json", "stopping.csv", "stopping.png"):
        print(folder / name)
    return 0


def _say(text: str, *, last: bool = False) -> None:
    """Show how far it is: on a terminal in one line, else a line for every seed's start."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif not last and ("round" not in text or text.endswith("round 1")):
        print(text, file=sys.stderr)


def _show(name: str, comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from fedward.simulations.stopping.verdict import HEAD, sentences, table

    recordings = comparison.recordings
    console = Console(highlight=False, width=WIDTH, soft_wrap=True)
    budgets = ", ".join(str(budget) for budget in comparison.budgets)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for place, head in enumerate(HEAD):
        shown.add_column(head, justify="left" if place == 0 else "right", no_wrap=True)
    for cells in table(comparison):
        shown.add_row(*cells)
    print(f"{name}: stop rules over {len(recordings)} seeds, means with 95 % intervals")
    print(f"budgets (rounds): {budgets}; metric: {recordings[0].primary_metric}")
    console.print(shown)
    for sentence in sentences(comparison):
        print(f"\n{sentence}")
    print()
