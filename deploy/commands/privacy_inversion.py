"""`fedward privacy inversion`: a picture of what one update gives away of a patient."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.deploy.commands.parsing import Commands, add_command
from fedward.deploy.commands.privacy_audit import add_config, opened, teller

if TYPE_CHECKING:
    from fedward.simulations.privacy_audit.inversion import Inversion

SUFFIX = ".png"
MEANING = (
    "PSNR is higher the nearer the truth. A reconstruction that is no nearer than the image of "
    "another patient has learnt nothing of this one."
)


def add(verbs: Commands) -> None:
    """Add the command to the group `fedward privacy`."""
    parser = add_command(
        verbs,
        "inversion",
        _inversion,
        about="draw what a single update gives away of a patient's image, with and without DP",
        examples="  fedward privacy inversion private_phantom --out inversion.png   about a minute",
    )
    add_config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--json", action="store_true", help="for scripts")


def _inversion(args: argparse.Namespace) -> int:
    from fedward.common.errors import ConfigError

    if args.out.suffix != SUFFIX:
        raise ConfigError(f"--out: {args.out}: expected a name that ends in {SUFFIX}")
    from fedward.simulations.privacy_audit.inversion import invert
    from fedward.simulations.privacy_audit.inversion_figure import write_figure

    found = invert(opened(args.config, args.overrides), say=teller())
    write_figure(found, args.out)
    if args.json:
        print(json.dumps({"path": str(args.out), **found.to_dict()}, indent=1))
        return 0
    print(args.out)
    for line in _lines(found):
        print(line)
    return 0


def _lines(found: "Inversion") -> Iterator[str]:
    from fedward.simulations.privacy_audit.inversion import psnr_db

    count = len(found.attacked.other_mse)
    yield (
        f"{count} patients of {found.site}, a step of gradient descent each; privacy: clipped to "
        f"{found.max_grad_norm:g}, noise multiplier {found.noise_multiplier:g}"
    )
    yield f"{'':<34}{'MSE':>9}  {'PSNR dB':>16}  named among {found.attacked.num_images} images"
    for one in found.found:
        name = f"{one.network}, {'with' if one.is_private else 'without'} privacy"
        yield f"{name:<34}{_row(one.mse, psnr_db(one.mse))}  {one.num_named} of {count}"
    others = found.attacked.other_mse
    yield f"{'another patient of the site':<34}{_row(others, psnr_db(others))}"
    yield MEANING


def _row(mse: tuple[float, ...], psnr: tuple[float, ...]) -> str:
    """Return the mean error, and the range of the PSNR over the patients."""
    return f"{sum(mse) / len(mse):>9.2g}  {f'{min(psnr):.1f} to {max(psnr):.1f}':>16}"
