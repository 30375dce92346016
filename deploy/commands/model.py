"""`fedward model` and `fedward predict`: trained models at the hospital, and what they say."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands import montage
from fedward.deploy.commands.audit import add_site, existing_database
from fedward.deploy.commands.parsing import Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.client.model_file import TrainedModel

MODEL_EXAMPLES = """\
  fedward model list --site site.yaml
  fedward model pull sepsis --site site.yaml --out sepsis.safetensors
  fedward model export sepsis --site site.yaml --out sepsis-bundle     for MONAI
"""
PREDICT_EXAMPLES = """\
  fedward predict --model sepsis.safetensors --input patients.csv --out predictions
  fedward predict --model runs/latest --input patients.csv --out predictions
  fedward predict --model runs/latest --input /export/ct --out findings     a model of images
  fedward predict --model kidneys.safetensors --input /export/ct --out stones --stone-hu 150

A table: predictions.csv, a probability per row. Scans (a folder of DICOM or NIfTI, with the
clinical table beside them if there is one): masks/ as NIfTI and DICOM SEG, measurements.json and
measurements.csv, predictions.csv where the model classifies, and quarantine.csv with the files
that were not used and why. The files name patients, only you can read them, and nobody has reviewed
them.
"""


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    verbs = add_group(
        commands,
        "model",
        about="the hospital's own copies of trained models",
        examples=MODEL_EXAMPLES,
    )
    listing = add_command(
        verbs,
        "list",
        _list,
        about="the models that the coordinator sent, the newest first",
        examples="  fedward model list --site site.yaml",
    )
    add_site(listing)
    receive = add_command(
        verbs,
        "receive",
        _receive,
        about="take a model from a run's release.safetensors, for a site that was away",
        examples="  fedward model receive release.safetensors --site site.yaml",
    )
    receive.add_argument("file", type=Path, metavar="FILE", help="from the coordinator")
    add_site(receive)
    pull = add_command(
        verbs,
        "pull",
        _pull,
        about="write a model, with the site's own parts, to a .safetensors file",
        examples="  fedward model pull sepsis --site site.yaml --out sepsis.safetensors",
    )
    export = add_command(
        verbs,
        "export",
        _export,
        about="write a model, with the site's own parts, as a MONAI bundle",
        examples="  fedward model export sepsis --site site.yaml --out sepsis-bundle",
    )
    for parser, what in ((pull, "FILE"), (export, "DIR")):
        parser.add_argument("name", metavar="NAME", help="as `fedward model list` shows it")
        add_site(parser)
        parser.add_argument("--out", type=Path, required=True, metavar=what)
    montage.add(verbs)
    predict = _add_predict(commands)
    for parser in (listing, pull, export, predict):
        parser.add_argument("--json", action="store_true", help="for scripts")


def _add_predict(commands: Commands) -> argparse.ArgumentParser:
    predict = add_command(
        commands,
        "predict",
        _predict,
        about="probabilities for the patients of a table; masks and measurements of CT scans",
        examples=PREDICT_EXAMPLES,
    )
    predict.add_argument(
        "--model", required=True, metavar="MODEL", help="a .safetensors file, a bundle, or a run"
    )
    predict.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="CSV or Parquet; for a model of images, a folder of DICOM or NIfTI",
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if needed")
    predict.add_argument(
        "--stone-hu",
        type=float,
        metavar="HU",
        help="task ct-kidney: voxels from here on may be stone (default: 130)",
    )
    predict.add_argument(
        "--own-model",
        action="store_true",
        help="let the model name a network of its own, which runs code that is installed here",
    )
    return predict


def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from fedward.client.models import Models
    from fedward.common.config.site import load_site_config

    site = load_site_config(args.site)
    models = Models(existing_database(site), site.config.site)
    try:
        found = models.entries()
    finally:
        models.close()
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    for one in found:
        print(f"{one.name}  round {one.round}, {one.num_parameters} parameters, {one.received}")
        print(f"  {one.run_key}")
    if not found:
        print("no model yet: the coordinator sends one when a run ends")
    return 0


def _receive(args: argparse.Namespace) -> int:
    from fedward.client.approvals import RosterPins
    from fedward.client.models import Models
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import TrustError
    from fedward.common.release import read_release, verify_release

    site = load_site_config(args.site)
    database = existing_database(site)
    roster = RosterPins(database).pinned()
    if roster is None:
        raise TrustError("this site has not confirmed a roster yet: fedward approve roster")
    release, signature = read_release(args.file)
    verify_release(release, signature, roster.model_key)
    models = Models(database, site.config.site)
    try:
        models.keep(release, signature)
    finally:
        models.close()
    print(f"{release.name}: round {release.round} is kept; its signature is the coordinator's")
    return 0


def _pull(args: argparse.Namespace) -> int:
    from fedward.client.model_file import write_model

    model = _load(args.site, args.name)
    return _say(model, write_model(model, args.out), as_json=args.json)


def _export(args: argparse.Namespace) -> int:
    from fedward.client.bundle import write_bundle

    model = _load(args.site, args.name)
    return _say(model, write_bundle(model, args.out), as_json=args.json)


def _load(site_file: Path, name: str) -> "TrainedModel":
    """Return a kept model with all that predicting needs."""
    from fedward.client.data.source import site_source
    from fedward.client.models import Models, with_own_statistics
    from fedward.common.config.site import load_site_config

    site = load_site_config(site_file)
    models = Models(existing_database(site), site.config.site)
    try:
        model = models.load(name, plugins=site.config.plugins)
    finally:
        models.close()
    return with_own_statistics(model, site_source(site, model.schema, model.config.data.image))


def _say(model: "TrainedModel", path: Path, *, as_json: bool) -> int:
    whose = {
        "global": "every part is the federation's",
        "site": "with the parts that this site trained itself: keep it here",
        "personal": "this site's personal model: keep it here",
    }[model.parts]
    if as_json:
        facts = {"path": str(path), "name": model.name, "round": model.round, "parts": model.parts}
        print(json.dumps(facts, indent=1))
    else:
        print(f"{path}\n  {model.name} after round {model.round}, {whose}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from fedward.client.predict import open_model, predict
    from fedward.common.errors import ConfigError
    from fedward.simulations.simulate import find_run

    path = Path(args.model)
    if not path.exists():
        path = path if path.suffix == ".safetensors" else find_run(args.model)
    model = open_model(path)
    if model.config.data.image is not None:
        return _predict_scans(args, model, path)
    if args.stone_hu is not None:
        raise ConfigError("--stone-hu: only for models of the task ct-kidney")
    found = predict(model, args.input, args.out, own_models=args.own_model)
    if args.json:
        facts = {"path": str(found.path), "rows": found.num_rows, "without": found.num_without}
        print(json.dumps(facts, indent=1))
        return 0
    print(f"{found.path}\n  {found.num_rows} rows")
    if found.num_without:
        print(
            f"  {found.num_without} without a prediction: a feature is missing, and the model was"
        )
        print("  trained on complete rows only (data.complete_cases)")
    return 0


def _predict_scans(args: argparse.Namespace, model: "TrainedModel", path: Path) -> int:
    from fedward.client.data.source import need_ct_packages

    need_ct_packages()
    from fedward.client.predict_ct import predict_scans

    found = predict_scans(
        model,
        args.input,
        args.out,
        run=path if (path / "config.yaml").is_file() else None,
        stone_hu=args.stone_hu,
        own_models=args.own_model,
        progress=_progress,
    )
    facts = {
        "path": str(found.folder),
        "patients": found.num_patients,
        "series": found.num_series,
        "lesions": found.num_lesions,
        "segmentations": found.num_segmentations,
        "files_not_used": found.num_quarantined,
        "patients_without": found.num_without,
    }
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    print(f"{found.folder}\n  {found.num_series} series of {found.num_patients} patients")
    print(f"  {found.num_lesions} lesions, {found.num_segmentations} DICOM segmentations")
    if found.num_without:
        print(f"  {found.num_without} patients without a probability: no lesion was found")
    if found.num_quarantined:
        print(f"  {found.num_quarantined} files not used; why: {found.folder / 'quarantine.csv'}")
    return 0


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        print(f"{done} of {total} {what}", end=end, file=sys.stderr, flush=True)
