"""`fedward synth evaluate`: what rows are worth, how true they are, and whom they give away."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command
from fedward.deploy.commands.synth_fit import add_table_arguments, table_view
from fedward.deploy.progress import progress_bar

if TYPE_CHECKING:
    from fedward.synth.evaluation.evaluate import Evaluation

EXAMPLES = """\
  fedward synth evaluate rows.csv --model cohort.synth --data patients.csv
  fedward synth evaluate rows.csv --model cohort.synth --data patients.csv --external other.csv
  fedward synth evaluate rows.csv --train train.csv --holdout others.csv --schema my.yaml
  fedward synth evaluate rows.csv --model cohort.synth --data patients.csv --json"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        verbs,
        "evaluate",
        _evaluate,
        about="may these rows be shared? use, truth and privacy, as a page and as JSON",
        examples=EXAMPLES,
    )
    parser.add_argument("rows", type=Path, metavar="ROWS", help="the synthetic rows, all of them")
    parser.add_argument("--model", type=Path, help="what they were made with, and with it:")
    parser.add_argument(
        "--data", type=Path, metavar="TABLE", help="the patients that it was fitted on"
    )
    parser.add_argument("--train", type=Path, metavar="TABLE", help="or: patients it has learned")
    parser.add_argument(
        "--holdout", type=Path, metavar="TABLE", help="and other patients of the same hospital"
    )
    parser.add_argument("--external", type=Path, metavar="TABLE", help="of another hospital")
    parser.add_argument(
        "--draws",
        type=int,
        default=3,
        help="tables that the model draws for intervals of use (default: 3)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="default: the rows' name with .html"
    )
    parser.add_argument("--seed", type=int, default=1, help="of learners and attacks (default: 1)")
    add_table_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for scripts")


def _evaluate(args: argparse.Namespace) -> int:
    from fedward.deploy.synth_evaluation import Files, evaluate_files
    from fedward.synth.evaluation.page import write_page

    files = Files(args.rows, args.model, args.data, args.train, args.holdout, args.external)
    view = table_view(args)
    with progress_bar("evaluation") as bar:
        found = evaluate_files(
            files,
            view,
            seed=args.seed,
            num_draws=args.draws,
            progress=lambda _what, share: bar(round(100 * share), 100),
        )
    page = write_page(found, args.report or args.rows.with_name(f"{args.rows.name}.html"))
    if args.json:
        print(json.dumps({**found.to_dict(), "report": str(page)}, indent=1))
        return 0
    _tell(found)
    print(page)
    return 0


def _tell(found: "Evaluation") -> None:
    print("shareable: " + ("yes" if found.verdict.shareable else "no"))
    for reason in found.verdict.reasons:
        mark = {"blocks": "✗", "supports": "✓"}.get(reason.weight, "·")
        print(f"  {mark} {reason.sentence}")
