"""`fedward synth sample`: rows of a table that was learned."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.synth.tables.counts import ClassCounts

EXAMPLES = """\
  fedward synth sample cohort.synth --out rows.csv                      as many as were learned
  fedward synth sample cohort.synth -n 1080 --classes balanced --out rows.parquet
  fedward synth sample cohort.synth --classes 0=500,1=40 --out rows.csv
  fedward synth sample cohort.synth -n 200 --where age=60..80 --where sex=1 --out rows.csv"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        verbs, "sample", _sample, about="make rows like those that were learned", examples=EXAMPLES
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="from `fedward synth fit`")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="new .csv, .csv.gz or .parquet"
    )
    parser.add_argument("-n", type=int, metavar="ROWS", help="default: as many as were learned")
    parser.add_argument(
        "--classes",
        default="original",
        metavar="SHARES",
        help="original (default), balanced, or rows of each class, such as 0=540,1=540",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE|LOW..HIGH",
        help="only such rows; may be repeated",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="the same rows again. Never pass a seed on: who has it can take the noise off the "
        "rows. Default: another one each time, which is not kept",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def _sample(args: argparse.Namespace) -> int:
    from fedward.deploy.synth_output import release
    from fedward.synth.tables.artefact import load

    model = load(args.model)
    sampling = model.sampling(
        args.n,
        class_counts=parse_classes(args.classes, model.columns_.classes),
        conditions=dict(parse_condition(text) for text in args.where),
        seed=args.seed,
    )
    facts = release(sampling, model, args.out)
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    for name, one in facts["classes"].items():
        filled = f", {one['filled']} of them not by the filter" if one["filled"] else ""
        kept = "" if one["acceptance"] == 1 else f"; {one['acceptance']:.1%} of candidates kept"
        print(f"{name}: {one['returned']} rows{filled}{kept}")
    print(facts["privacy"]["statement"])
    print(args.out)
    return 0


def parse_classes(text: str, classes: tuple[Any, ...]) -> "ClassCounts":
    """Return what `--classes` asks for.

    Raises:
        ConfigError: it is neither a word that is known nor CLASS=ROWS, ...
    """
    from fedward.common.errors import ConfigError

    if text == "original":
        return "original"
    if text == "balanced":
        return "balanced"
    names = {str(one): one for one in classes}
    found = {}
    for part in text.split(","):
        name, _, rows = part.partition("=")
        if name not in names or not (rows.isascii() and rows.isdigit()):
            known = ", ".join(names) or "none: the table has no label"
            raise ConfigError(
                f"--classes {text}: expected original, balanced, or CLASS=ROWS with commas; "
                f"classes: {known}"
            )
        found[names[name]] = int(rows)
    return found


def parse_condition(text: str) -> tuple[str, Any]:
    """Return the column and the value, or (lowest, highest), in `COLUMN=VALUE|LOW..HIGH`.

    Raises:
        ConfigError: it is neither.
    """
    from fedward.common.errors import ConfigError

    name, equals, value = text.partition("=")
    low, dots, high = value.partition("..")
    try:
        if equals and dots:
            return name, (float(low or "-inf"), float(high or "inf"))
    except ValueError:
        equals = ""
    if not equals:
        raise ConfigError(
            f"--where {text}: expected COLUMN=VALUE or COLUMN=LOW..HIGH, such as age=60..80"
        )
    try:
        return name, float(value)
    except ValueError:
        return name, value
