"""`fedward synth fit`: learn a clinical table."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands.parsing import Commands, add_command

if TYPE_CHECKING:
    from fedward.client.data.patient_frame import View
    from fedward.synth.tables.base import Synthesiser

DEFAULT = "gaussian-copula"
EXAMPLES = """\
  fedward synth fit patients.csv --label sepsis --out cohort.synth
  fedward synth fit patients.csv --schema heart-disease --method kde-knn --set k=7 --out c.synth
  fedward synth fit patients.csv --schema my.yaml --method dp-gaussian-copula \\
      --set epsilon=3 --set delta=1e-4 --out cohort.synth
  fedward synth fit patients.csv --label sepsis --write-schema my.yaml"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        verbs,
        "fit",
        _fit,
        about="learn a clinical table: one row per patient",
        examples=EXAMPLES,
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV or Parquet")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the model is saved")
    parser.add_argument(
        "--method", default=DEFAULT, metavar="NAME", help=f"default: {DEFAULT}; `list` shows all"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a parameter of the method, such as bandwidth=scott; may be repeated",
    )
    add_table_arguments(parser)
    parser.add_argument(
        "--holdout",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of the patients that are left out, so that privacy can be measured (default: 0.3)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the split and the fit (default: 1)")
    parser.add_argument(
        "--write-schema",
        type=Path,
        metavar="FILE.yaml",
        help="write what was read off the columns, to be corrected; learn nothing",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how a table is read."""
    parser.add_argument(
        "--schema", metavar="NAME|FILE", help="what the columns mean; default: read off the rows"
    )
    parser.add_argument("--label", metavar="COLUMN", help="the outcome, without a schema")
    parser.add_argument("--features", metavar="A,B,...", help="columns that are used; default: all")
    parser.add_argument("--drop", metavar="A,B,...", help="columns that are left out")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="COLUMN",
        help="it looks like an identifier, but is none; may be repeated",
    )


def table_view(args: argparse.Namespace) -> "View":
    """Return how the arguments of `add_table_arguments` want a table to be read."""
    from fedward.client.data.patient_frame import View

    return View(
        schema=args.schema,
        label=args.label,
        features=tuple(args.features.split(",")) if args.features else None,
        drop=tuple(args.drop.split(",")) if args.drop else (),
        allow=tuple(args.allow),
    )


def _fit(args: argparse.Namespace) -> int:
    from fedward.client.data.patient_frame import file_hash, read_cohort
    from fedward.common.errors import ConfigError
    from fedward.synth.tables.methods import method_names, new_synthesiser

    if args.method == "list":
        print("\n".join(method_names()))
        return 0
    cohort = read_cohort(args.table, table_view(args))
    if args.write_schema is not None:
        return _write_schema(cohort.columns, args.write_schema)
    if args.out is None:
        raise ConfigError("--out: where shall the model be saved?")
    settings = parse_settings(args.settings)
    settings.setdefault("seed", args.seed)
    model = new_synthesiser(args.method, columns=cohort.columns, **settings)
    train, held = cohort.split(args.holdout, args.seed)
    model.fit(train)
    facts = {
        "holdout": {"share": args.holdout, "seed": args.seed},
        "table": {"sha256": file_hash(args.table), "view": asdict(table_view(args))},
    }
    model.save(args.out, facts=facts)
    _tell(args, model, len(train), len(held))
    return 0


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Return the parameters in `KEY=VALUE` texts; values are YAML, as with `--set` of a run.

    Raises:
        ConfigError: a text is not KEY=VALUE.
    """
    from fedward.common.config.overrides import parse_override

    found = [parse_override(text) for text in texts]
    return {".".join(one.path): one.value for one in found}


def _write_schema(columns: Any, path: Path) -> int:
    from fedward.synth.tables.detect import schema_yaml

    path.write_text(schema_yaml(columns, name=path.stem), encoding="utf-8")
    print(f"{path}  correct units, ranges and categories, then use it with --schema")
    return 0


def _tell(args: argparse.Namespace, model: "Synthesiser", num_train: int, num_held: int) -> None:
    columns = model.columns_
    if args.json:
        content = {
            "file": str(args.out),
            "method": args.method,
            "parameters": model.get_params(),
            "columns": columns.to_dict(),
            "patients": {"learned": num_train, "held_out": num_held},
            "contains_patients": model.holds_patients,
        }
        print(json.dumps(content, indent=1, default=str))
        return
    kinds = f"{len(columns.continuous)} numbers, {len(columns.categorical)} categories"
    print(f"{args.method}: learned {num_train} patients, {kinds}; {num_held} held out")
    if not columns.is_public:
        print("bounds and categories were read off the patients; --schema says them instead")
    if model.holds_patients:
        print("the model contains patients: keep it here (0600); only sampled rows can be shared")
    print(args.out)
