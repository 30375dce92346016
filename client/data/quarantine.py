"""The list of files that were not used, and why: on the site's own disk, for its own people.

File names can name patients: the list is 0600, and nothing of it leaves the site.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fedward.client.data.volumes import Quarantined
from fedward.common.errors import StorageError
from fedward.common.keys import write_private

FILE_NAME = "quarantine.csv"
HEADER = ("file", "reason")


def write_quarantine(folder: Path, found: Iterable[Quarantined], *, root: Path) -> Path:
    """Write `quarantine.csv` into `folder`, mode 0600, and return its path.

    Args:
        folder: of the site's cache; it is there.
        found: what was not used.
        root: files are named relative to it.

    Raises:
        StorageError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    for one in sorted(set(found), key=lambda one: (str(one.path), one.reason)):
        table.writerow((relative(one.path, root), one.reason))
    path = folder / FILE_NAME
    write_private(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return path


def read_quarantine(path: Path) -> list[tuple[str, str]]:
    """Return (file, reason) of a list that `write_quarantine` wrote.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [(row[0], row[1]) for row in csv.reader(file)]
    except (OSError, IndexError, csv.Error) as error:
        raise StorageError(f"{path}: cannot be read ({type(error).__name__})") from None
    return rows[1:]


def in_short(reasons: Iterable[str], most: int = 5) -> str:
    """Return the commonest reasons with their counts; it names no file and no patient."""
    common = Counter(reasons).most_common(most)
    return "; ".join(f"{number} x {reason}" for reason, number in common)


def relative(path: Path, root: Path) -> str:
    """Return the path below `root`, or all of it where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
