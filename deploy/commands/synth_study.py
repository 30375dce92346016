"""`fedward synth study`: what a paper on synthetic tables did, with the controls."""

import argparse
import json
import sys
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command

EXAMPLES = """\
  fedward synth study kde_knn                       KDE-KNN on PhysioNet 2019, five seeds
  fedward synth study kde_knn_heart --out heart
  fedward synth study my.yaml --set num_seeds=3 --json"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        verbs, "study", _study, about="repeat a paper's experiments on real data", examples=EXAMPLES
    )
    parser.add_argument("config", metavar="CONFIG", help="a shipped study, or a file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one key; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: runs/study-NAME; goes on where it was interrupted",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def _study(args: argparse.Namespace) -> int:
    from fedward.simulations.over_seeds import append_result, read_results
    from fedward.simulations.papers.config import load_study
    from fedward.simulations.papers.picture import picture
    from fedward.simulations.papers.report import as_json, as_markdown
    from fedward.simulations.papers.study import Result, run_study

    config, base_dir = load_study(args.config, args.overrides)
    folder = args.out or Path("runs") / f"study-{config.name}"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "results.jsonl"
    known = read_results(made, Result)
    results = []
    for result in run_study(config, base_dir, say=_say, known=known):
        if result not in known:
            append_result(made, result)
        results.append(result)
    content = json.dumps(as_json(config, results), indent=1)
    page = as_markdown(config, results)
    (folder / "study.json").write_text(content + "\n")
    (folder / "study.md").write_text(page)
    (folder / "study.png").write_bytes(picture(config, results))
    print(content if args.json else page)
    if not args.json:
        print(folder / "study.md", folder / "study.png", sep="\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
