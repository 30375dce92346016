"""`fedward synth phantom`: CT phantoms, and phantoms of pictures, with known truth."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.common.errors import ConfigError
from fedward.deploy.commands.parsing import Commands, add_command
from fedward.deploy.progress import progress_bar

if TYPE_CHECKING:
    from fedward.common.config.image import PhantomConfig, PicturesConfig

_SCANS = ("stones", "nodules", "abdomen")
_PICTURES = ("skin", "retina")
_DEFAULT_SITES = ("hospital-a=25", "hospital-b=25", "hospital-c=25", "hospital-d=25")
_EXAMPLES = """\
  fedward synth phantom --out phantoms
  fedward synth phantom --out phantoms --site north=200 --site south=80 --labels-from ct
  fedward synth phantom --out abdomens --kind abdomen --site north=10 --files nifti
  fedward synth phantom --out nodules --kind nodules --size 48 --preview nodules.png
  fedward synth phantom --out spots --kind skin --site north=200 --preview spots.png
  fedward synth phantom --out phantoms --json   for scripts"""


def add(verbs: Commands) -> None:
    """Add the command to the parser."""
    phantom = add_command(
        verbs,
        "phantom",
        _phantom,
        about="phantoms with known truth: CT as DICOM or NIfTI, or pictures as arrays, with masks",
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
        choices=[*_SCANS, *_PICTURES],
        default="stones",
        help="CT: regions round urinary stones (default) or lung nodules, or whole abdomens; "
        "pictures: spots of the skin, or B-scans of the retina",
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
        help="CT: what the label depends on (default: both)",
    )
    phantom.add_argument(
        "--size",
        type=int,
        metavar="MM|PIXELS",
        help="side of a region in mm, or of a picture in pixels (default: 64)",
    )
    phantom.add_argument(
        "--files", choices=["dicom", "nifti"], help="CT: how scans are written (default: dicom)"
    )
    phantom.add_argument(
        "--missing",
        type=float,
        metavar="SHARE",
        help="CT: of the clinical values that are left out (default: 0.1)",
    )
    phantom.add_argument("--seed", type=int, default=1, help="default: 1")
    phantom.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="also a picture of the first patients"
    )
    phantom.add_argument("--json", action="store_true", help="for scripts: what was made")


def _phantom(args: argparse.Namespace) -> int:
    config = _config(args)
    from fedward.common.config.image import PicturesConfig
    from fedward.synth.phantom.cohort import read_cohort

    if isinstance(config, PicturesConfig):
        _make_pictures(config, args.out, args.preview)
    else:
        _make_scans(config, args.out, args.preview)
    found = read_cohort(args.out)
    if args.json:
        shown = {name: value for name, value in found.items() if name != "patients"}
        print(json.dumps({"folder": str(args.out), **shown}, indent=1))
        return 0
    _tell(args.out, found)
    return 0


def _make_scans(config: "PhantomConfig", folder: Path, preview: Path | None) -> None:
    from fedward.synth.phantom.cohort import make_cohort

    with progress_bar("patients") as progress:
        make_cohort(config, folder, progress=progress)
    if preview is not None:
        from fedward.synth.phantom.preview import write_preview

        write_preview(config, preview)


def _make_pictures(config: "PicturesConfig", folder: Path, preview: Path | None) -> None:
    from fedward.synth.pictures.cohort import make_pictures

    with progress_bar("patients") as progress:
        make_pictures(config, folder, progress=progress)
    if preview is not None:
        from fedward.synth.pictures.preview import write_preview

        write_preview(config, preview)


def _tell(folder: Path, found: dict[str, Any]) -> None:
    for name, site in found["sites"].items():
        print(f"{name}: {site['patients']} patients, {_scans(site) or _pictures(site)}")
    print(f"generator {found['generator']['hash']}, cohort {found['key']}")
    print(folder)


def _scans(site: dict[str, Any]) -> str:
    """Return what a site's CT is, or nothing where it has pictures."""
    scanner = site.get("scanner")
    if scanner is None:
        return ""
    return (
        f"{site['positive']} of them positive, {site['lesions']} lesions; "
        f"{scanner['slice_mm']:g} mm slices, {scanner['kernel']}"
    )


def _pictures(site: dict[str, Any]) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in site["classes"].items())
    return f"{site['pictures']} pictures ({classes}); sensor {site['sensor']['name']}"


def _config(args: argparse.Namespace) -> "PhantomConfig | PicturesConfig":
    """Return what the arguments ask for.

    Raises:
        ConfigError: a site is not NAME=PATIENTS, a value is out of range, or an option is for CT
            only.
    """
    from pydantic import ValidationError

    from fedward.common.config.image import PhantomConfig, PicturesConfig
    from fedward.common.config.plain_errors import explain, spell

    options = {"labels_from": args.labels_from, "files": args.files, "missing": args.missing}
    given = {name: value for name, value in options.items() if value is not None}
    section = PicturesConfig if args.kind in _PICTURES else PhantomConfig
    if given and section is PicturesConfig:
        spelled = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{spelled}: only for CT; pictures ({args.kind}) have no such choice")
    values = {"kind": args.kind, "patients": _sites(args.sites or _DEFAULT_SITES), **given}
    values |= {"seed": args.seed} | ({} if args.size is None else {"size": args.size})
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = explain(error, section)
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
