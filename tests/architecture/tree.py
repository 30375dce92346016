"""The source tree, as the architecture tests see it."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("client", "common", "deploy", "server", "simulations", "synth")


def modules(*folders: str) -> list[Path]:
    """Return the Python files under `folders`, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def import_name(path: Path) -> str:
    """Return the dotted name of the module at `path`: `fedward.server.rounds`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("fedward", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def label(path: Path) -> str:
    """Return `path` as it is shown in the name of a test."""
    return str(path.relative_to(ROOT))


def text_files() -> Iterator[Path]:
    """Yield what is written by hand: code, pages, configurations, locks."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".pyc")
    for folder in (*FOLDERS, "tests", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
