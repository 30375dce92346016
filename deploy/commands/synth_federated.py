"""`fedward synth federated`: synthetic patients of many hospitals, none of which shows its own."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.common.config.loader import LoadedConfig

ENDINGS = (".csv", ".parquet")
EXAMPLES = """\
  fedward synth federated run.yaml                    a run.yaml with a section `synthesis`
  fedward synth federated heart_disease --set synthesis.method=copula \\
      --set synthesis.rows_per_site=500               a shipped one, on this machine

  fedward submit run.yaml --kit KIT --key KEY --wait  at hospitals: the same file; afterwards,
  fedward synth federated --from RUN                  where the coordinator keeps its runs
  fedward synth federated --from RUN --rows 100000 --seed 2   more rows of a copula, whenever
"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        verbs,
        "federated",
        _federated,
        about="rows or a copula of many sites, simulated, or from a run at hospitals",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a run.yaml, or a shipped configuration"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as synthesis.rows_per_site=500; may be given several times",
    )
    parser.add_argument("--engine", choices=["ray", "inprocess"], help="same as --set engine.name=")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="where the run folder is made"
    )
    parser.add_argument(
        "--from", dest="run", metavar="RUN", help="a run that hospitals have answered; no CONFIG"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="with --from, of a copula: how many")
    parser.add_argument("--seed", type=int, metavar="N", help="with --from, of a copula: which")
    parser.add_argument(
        "--format", choices=[one[1:] for one in ENDINGS], default="csv", help="default: csv"
    )
    parser.add_argument("--json", action="store_true", help="print the summary and nothing else")


def _federated(args: argparse.Namespace) -> int:
    from fedward.common.errors import ConfigError

    if (args.run is None) == (args.config is None):
        raise ConfigError("give CONFIG, to hold a synthesis here, or --from RUN, to write its rows")
    if args.run is None and (args.rows is not None or args.seed is not None):
        raise ConfigError("--rows, --seed: only with --from; here: --set synthesis.rows_per_site=")
    if args.run is not None:
        summary, folder = _from_run(args)
    else:
        summary, folder = _simulated(args)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        _show(summary, folder)
    return 0


def _simulated(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    from fedward.common.config.loader import errors_point_to, load_run_config
    from fedward.simulations.cli import find_config
    from fedward.simulations.simulate import Run
    from fedward.simulations.synthesis import prepared, synthesise

    engine = [f"engine.name={args.engine}"] if args.engine else []
    path = find_config(args.config)
    loaded: LoadedConfig = load_run_config(path, [*args.overrides, *engine])
    with errors_point_to(loaded, "synthesis"):
        prepared(loaded.config, path.parent)
    folder = synthesise(
        loaded.config,
        base_dir=path.parent,
        out=args.out,
        say=lambda line: print(line, file=sys.stderr),
        ending=f".{args.format}",
    )
    return Run(folder).summary, folder


def _from_run(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    from fedward.common.errors import ConfigError
    from fedward.server.given_files import read_given
    from fedward.simulations.simulate import find_run
    from fedward.simulations.synthetic_tables import (
        claim_of,
        study_of_run,
        tables_of,
        write_tables,
    )

    folder = find_run(args.run, args.out)
    study = study_of_run(folder)
    given = read_given(folder)
    if given is None:
        raise ConfigError(f"{folder}: the sites have given nothing yet; wait for the run's end")
    tables = tables_of(given, study, num_rows=args.rows, seed=args.seed)
    files = write_tables(tables, study, folder, ending=f".{args.format}")
    summary_file = folder / "summary.json"
    summary = json.loads(summary_file.read_text("utf-8")) if summary_file.exists() else {}
    summary["files"] = [str(path.relative_to(folder)) for path in files]
    made = {"rows": len(tables.pooled), **claim_of(tables)}
    summary["synthesis"] = {**summary.get("synthesis", {}), **made}
    return summary, folder


def _show(summary: dict[str, Any], folder: Path) -> None:
    synthesis = summary["synthesis"]
    claim = ""
    if synthesis.get("epsilon") is not None:
        claim = f", (epsilon, delta) = ({synthesis['epsilon']:g}, {synthesis['delta']:g}) each site"
        if synthesis["claim"]["is_reproducible"]:
            claim += " as if its noise were secret, which a simulation's is not"
    print(f"{synthesis.get('method')}: {synthesis['rows']} rows{claim}")
    utility = synthesis.get("trained_on_rows_tested_on_patients", {})
    for site, found in utility.get("sites", {}).items():
        auroc = found["metrics"].get("auroc", {})
        if auroc.get("value") is not None:
            print(
                f"  trained on the rows, tested on patients of {site}: AUROC {auroc['value']:.3f}"
            )
    if "reason" in utility:
        print(f"  {utility['reason']}")
    for name in summary["files"]:
        print(folder / name)
