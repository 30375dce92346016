"""`fedward dpia`: the pages that a data protection officer asks for."""

import argparse
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    page = add_command(
        commands,
        "dpia",
        _dpia,
        about="draft of a data protection impact assessment, filled in from a run",
        examples="  fedward dpia latest --out dpia.md\n  fedward dpia state/runs/NAME --out d.md",
    )
    page.add_argument("run", metavar="RUN", help="a run's folder, its name, or `latest`")
    page.add_argument("--out", type=Path, required=True, metavar="FILE", help="a Markdown file")
    page.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")


def _dpia(args: argparse.Namespace) -> int:
    from fedward.deploy.dpia import dpia
    from fedward.simulations.simulate import find_run

    text = dpia(find_run(args.run, args.runs))
    _write(args.out, text)
    print(args.out)
    return 0


def _write(path: Path, text: str) -> None:
    """Write a new file; an assessment that someone has filled in is not overwritten."""
    from fedward.common.errors import ConfigError, StorageError

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"--out: {path} exists, and may hold answers of yours; name another file"
        ) from None
    except OSError as error:
        raise StorageError(f"--out: {path}: {error.strerror}") from error
