"""`fedward scenarios`: the CME paper's four scenarios, trained together and each site alone."""

import argparse
import json
import sys
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command

EXAMPLES = """\
  fedward scenarios cme                             the paper's, with small networks on a CPU
  fedward scenarios cme --seeds 5 --out cme         again: goes on where it ended
  fedward scenarios my/run.yaml --set rounds=10     your own: one table dealt, networks by site"""
DEFAULT_SEEDS = 3


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "scenarios",
        _scenarios,
        about="different or the same data, different or the same networks: federated and alone",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="scenario 1, of different data and networks: cme or a file"
    )
    parser.add_argument(
        "--seeds", type=int, default=DEFAULT_SEEDS, metavar="N",
        help="from the configuration's own upwards (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one key; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="tables, picture, and the first seed's runs (default: runs/scenarios-NAME)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for scripts")


def _scenarios(args: argparse.Namespace) -> int:
    from fedward.simulations.over_seeds import append_result, read_results
    from fedward.simulations.privacy_curve_page import drawn
    from fedward.simulations.scenarios import Trained, clients_of, load_scenarios, train_scenarios
    from fedward.simulations.scenarios_page import as_json, as_markdown, picture

    configs, base_dir = load_scenarios(args.config, args.overrides)
    folder: Path = args.out or Path("runs") / f"scenarios-{configs[1].name.removesuffix('-1')}"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "results.jsonl"
    known = read_results(made, Trained)
    runs = []
    for run in train_scenarios(
        configs, base_dir, folder, num_seeds=args.seeds, known=known, say=_say
    ):
        if run not in known:
            append_result(made, run)
        runs.append(run)
    clients = clients_of(configs, runs)
    content = json.dumps(as_json(configs, runs, clients), indent=1)
    page = as_markdown(configs, runs, clients)
    (folder / "scenarios.json").write_text(content + "\n", encoding="utf-8")
    (folder / "scenarios.md").write_text(page, encoding="utf-8")
    figure = picture(configs, runs, clients)
    for kind in ("png", "svg"):
        (folder / f"scenarios.{kind}").write_bytes(drawn(figure, kind))
    print(content if args.json else page)
    if not args.json:
        print(folder / "scenarios.md", folder / "scenarios.png", sep="\n")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
