"""`fedward privacy curve`: what privacy costs in the figure that counts, over epsilon."""

import argparse
import json
import math
import sys
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command

EXAMPLES = """\
  fedward privacy curve private_heart --out curve                  epsilon 1, 3, 8 and none
  fedward privacy curve my.yaml --epsilon 2 inf --seeds 10 --out curve
  fedward privacy curve private_heart --out curve                  again: goes on where it ended"""
DEFAULT_EPSILONS = (1.0, 3.0, 8.0, math.inf)
DEFAULT_SEEDS = 5


def add(verbs: Commands) -> None:
    """Add `curve` to the commands of `fedward privacy`."""
    curve = add_command(
        verbs,
        "curve",
        _curve,
        about="what privacy costs: a study at several epsilons and without, federated and alone",
        examples=EXAMPLES,
    )
    curve.add_argument("config", metavar="CONFIG", help="a private run: a file, or a shipped one")
    curve.add_argument(
        "--epsilon", type=float, nargs="+", default=DEFAULT_EPSILONS, metavar="E",
        help="inf is the run without privacy (default: 1 3 8 inf)",
    )  # fmt: skip
    curve.add_argument(
        "--seeds", type=int, default=DEFAULT_SEEDS, metavar="N",
        help="from the configuration's own upwards (default: 5)",
    )  # fmt: skip
    curve.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one key; may be repeated",
    )  # fmt: skip
    curve.add_argument("--out", type=Path, required=True, metavar="DIR", help="tables and picture")
    curve.add_argument("--json", action="store_true", help="for scripts")


def _curve(args: argparse.Namespace) -> int:
    from fedward.common.config.loader import load_run_config
    from fedward.simulations.cli import find_config
    from fedward.simulations.over_seeds import append_result, read_results
    from fedward.simulations.privacy_curve import Trained, points_of, train_curve
    from fedward.simulations.privacy_curve_page import as_json, as_markdown, drawn, picture

    path = find_config(args.config)
    config = load_run_config(path, args.overrides).config
    epsilons = [None if one == math.inf else one for one in args.epsilon]
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "results.jsonl"
    known = read_results(made, Trained)
    runs = []
    for run in train_curve(
        config, path.parent, epsilons, num_seeds=args.seeds, known=known, say=_say
    ):
        if run not in known:
            append_result(made, run)
        runs.append(run)
    points = points_of(runs)
    content = json.dumps(as_json(config, runs, points), indent=1)
    page = as_markdown(config, runs, points)
    figure = picture(config, runs, points)
    (folder / "curve.json").write_text(content + "\n", encoding="utf-8")
    (folder / "curve.md").write_text(page, encoding="utf-8")
    for kind in ("png", "svg"):
        (folder / f"curve.{kind}").write_bytes(drawn(figure, kind))
    print(content if args.json else page)
    if not args.json:
        print(folder / "curve.md", folder / "curve.png", sep="\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
