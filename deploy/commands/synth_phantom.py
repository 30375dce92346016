"""`fedward synth phantom`: CT phantoms with known truth."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.common.errors import ConfigError
from fedward.deploy.commands.parsing import Commands, add_command
from fedward.deploy.progress import progress_bar

if TYPE_CHECKING:
    from fedward.common.config.image import PhantomConfig

_DEFAULT_SITES = ("hospital-a=25", "hospital-b=25", "hospital-c=25", "hospital-d=25")
_EXAMPLES = """\
  fedward synth phantom --out phantoms
  fedward synth phantom --out phantoms --site north=200 --site south=80 --labels-from ct
  fedward synth phantom --out abdomens --kind abdomen --site north=10 --files nifti
  fedward synth phantom --out nodules --kind nodules --size 48 --preview nodules.png
  fedward synth phantom --out phantoms --json   for scripts"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    phantom = add_command(
        verbs,
        "phantom",
        _phantom,
        about="CT phantoms with known truth, as DICOM or NIfTI with masks and a clinical table",
        examples=_EXAMPLES,
    )
    _add_arguments(phantom)


def _add_arguments(phantom: argparse.ArgumentParser) -> None:
    phantom.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder of the cohort; the same cohort is not made twice",
    )
    phantom.add_argument(
        "--kind",
        choices=["stones", "nodules", "abdomen"],
        default="stones",
        help="regions round urinary stones (default) or lung nodules, or whole abdomens",
    )
    phantom.add_argument(
        "--site",
        action="append",
        metavar="NAME=PATIENTS",
        dest="sites",
        help=f"once per site, each with a scanner of its own (default: {' '.join(_DEFAULT_SITES)})",
    )
    phantom.add_argument(
        "--labels-from",
        choices=["both", "ct", "ehr", "none"],
        default="both",
        help="what the label depends on (default: both)",
    )
    phantom.add_argument(
        "--size", type=int, default=64, metavar="MM", help="side of a region (default: 64)"
    )
    phantom.add_argument(
        "--files", choices=["dicom", "nifti"], default="dicom", help="default: dicom"
    )
    phantom.add_argument(
        "--missing",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the clinical values that are left out (default: 0.1)",
    )
    phantom.add_argument("--seed", type=int, default=1, help="default: 1")
    phantom.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="also a picture of the first patients"
    )
    phantom.add_argument("--json", action="store_true", help="for scripts: what was made")


def _phantom(args: argparse.Namespace) -> int:
    config = _config(args)
    from fedward.synth.phantom.cohort import make_cohort, read_cohort

    with progress_bar("patients") as progress:
        folder = make_cohort(config, args.out, progress=progress)
    if args.preview is not None:
        from fedward.synth.phantom.preview import write_preview

        write_preview(config, args.preview)
    found = read_cohort(folder)
    if args.json:
        shown = {name: value for name, value in found.items() if name != "patients"}
        print(json.dumps({"folder": str(folder), **shown}, indent=1))
        return 0
    _tell(folder, found)
    return 0


def _tell(folder: Path, found: dict[str, Any]) -> None:
    for name, site in found["sites"].items():
        scanner = site["scanner"]
        print(
            f"{name}: {site['patients']} patients, {site['positive']} of them positive, "
            f"{site['lesions']} lesions; {scanner['slice_mm']:g} mm slices, {scanner['kernel']}"
        )
    print(f"generator {found['generator']['hash']}, cohort {found['key']}")
    print(folder)


def _config(args: argparse.Namespace) -> "PhantomConfig":
    """Return what the arguments ask for.

    Raises:
        ConfigError: a site is not NAME=PATIENTS, or a value is out of range.
    """
    from pydantic import ValidationError

    from fedward.common.config.image import PhantomConfig
    from fedward.common.config.plain_errors import explain, spell

    values = {
        "kind": args.kind,
        "patients": _sites(args.sites or _DEFAULT_SITES),
        "labels_from": args.labels_from,
        "size": args.size,
        "files": args.files,
        "missing": args.missing,
        "seed": args.seed,
    }
    try:
        return PhantomConfig.model_validate(values)
    except ValidationError as error:
        problems = explain(error, PhantomConfig)
    raise ConfigError("\n".join(f"{spell(one.path)}: {one.text}" for one in problems))


def _sites(texts: list[str] | tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isascii() or not number.isdigit():
            raise ConfigError(f"--site {text}: expected NAME=PATIENTS, such as north=200")
        if name in found:
            raise ConfigError(f"--site {name}: given twice")
        found[name] = int(number)
    return found
