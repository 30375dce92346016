"""`fedward model montage`: a picture of the site's own cases, for its own people."""

import argparse
import json
from pathlib import Path

from fedward.deploy.commands.audit import add_site, existing_database
from fedward.deploy.commands.parsing import Commands, add_command

SUFFIX = ".png"


def add(verbs: Commands) -> None:
    """Add the command to the group `fedward model`."""
    parser = add_command(
        verbs,
        "montage",
        _montage,
        about="draw image, truth and prediction of the best, median and worst test patient",
        examples="  fedward model montage stones --site site.yaml --out stones.png",
    )
    parser.add_argument("name", metavar="NAME", help="as `fedward model list` shows it")
    add_site(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--json", action="store_true", help="for scripts")


def _montage(args: argparse.Namespace) -> int:
    from fedward.client.data.source import site_source
    from fedward.client.models import Models, with_own_statistics
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import ConfigError

    if args.out.suffix != SUFFIX:
        raise ConfigError(f"--out: {args.out}: expected a name that ends in {SUFFIX}")
    site = load_site_config(args.site)
    models = Models(existing_database(site), site.config.site)
    try:
        model = models.load(args.name, plugins=site.config.plugins)
    finally:
        models.close()
    if model.config.data.image is None:
        raise ConfigError(f"model {model.name}: it is of tables; there is no image to show")
    source = site_source(site, model.schema, model.config.data.image)
    # MONAI belongs to an extra, and takes seconds.
    from fedward.client.montage import described, site_cases, write_montage

    found = site_cases(
        with_own_statistics(model, source), source, own_models=":" in model.config.model.name
    )
    write_montage(args.out, found, title=f"{model.name} at {site.config.site}")
    if args.json:
        cases = [{"rank": case.rank, "dice": case.dice} for case in found]
        print(json.dumps({"path": str(args.out), "name": model.name, "cases": cases}, indent=1))
        return 0
    print(f"{args.out}\n  {described(found)}")
    print("  Patients of this site are in the picture: keep it here. Only you can read the file.")
    return 0
