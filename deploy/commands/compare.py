"""`fedward compare`: two models' predictions for the same patients."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.client.compare import Comparison
    from fedward.common.task import Metric


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "compare",
        _compare,
        about="compare two files of predictions on the same patients (DeLong's test)",
        examples="  fedward compare fusion/predictions.csv ct/predictions.csv --truth table.csv"
        "\n  fedward compare A.csv B.csv --truth T.csv --label infection --by sex --by age --json",
    )
    parser.add_argument("first", type=Path, metavar="A.csv", help="from `fedward predict`")
    parser.add_argument("second", type=Path, metavar="B.csv", help="of another model")
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="T.csv", help="the table, with the outcomes"
    )
    parser.add_argument("--label", metavar="COLUMN", help="outcome; default: the classes' names")
    parser.add_argument("--positive", metavar="CLASS", help="default: the last class")
    parser.add_argument("--patient", metavar="COLUMN", help="whose row it is")
    parser.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="subgroups; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def _compare(args: argparse.Namespace) -> int:
    from fedward.client.compare import Question, compare

    question = Question(args.label, args.positive, args.patient, tuple(args.by))
    found = compare(args.first, args.second, args.truth, question)
    if args.json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(f"AUROC of {found.label} = {found.positive}, DeLong's test")
    print(
        f"{found.test.difference.n} patients, {found.num_rows} rows ({found.num_positive} "
        f"positive), {found.num_without} left out"
    )
    _print_lines(found)
    return 0


def _print_lines(found: "Comparison") -> None:
    test = found.test
    print(f"A            {_text(test.first)}")
    print(f"B            {_text(test.second)}")
    p_value = "" if test.p_value is None else f"   p = {test.p_value:.3g}"
    print(f"A - B        {_text(test.difference, sign='+')}{p_value}")
    if found.subgroups:
        print("A - B in subgroups (many are looked at: read them as hints)")
    for row in found.subgroups:
        name = f"{row.group} {row.level}"
        print(f"  {name:<24} n = {row.num_patients:<5} {_text(row.metric, sign='+')}")


def _text(metric: "Metric", sign: str = "") -> str:
    if metric.value is None:
        return f"undefined: {metric.reason}"
    value = f"{metric.value:{sign}.3f}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} [{metric.low:{sign}.3f}, {metric.high:{sign}.3f}]"
