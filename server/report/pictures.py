"""Pictures of cases that a simulated run made of phantoms or public data, for the report.

They come from the run's own folder and nowhere else: what arrives from a hospital is figures.
"""

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

FOLDER = "pictures"
DESCRIPTION = "Description"
MAX_BYTES = 2_000_000
MAX_PICTURES = 40


@dataclass(frozen=True)
class Picture:
    """A site's best, median and worst case."""

    site: str
    uri: str
    """The PNG itself, as a `data:` address."""
    words: str
    """Which cases, such as 'best: Dice 0.91, median: Dice 0.80, worst: Dice 0.12'."""
    width_px: int
    height_px: int


def read_pictures(run_dir: Path, sites: Collection[str]) -> list[Picture]:
    """Return the pictures of the run's sites, in alphabetical order; the first `MAX_PICTURES`.

    Files that are too large, no PNG, or of no site of the run are left out.
    """
    found = []
    for path in sorted((run_dir / FOLDER).glob("*.png")):
        if path.stem in sites and path.stat().st_size <= MAX_BYTES:
            picture = _picture(path)
            found += [picture] if picture else []
    return found[:MAX_PICTURES]


def _picture(path: Path) -> Picture | None:
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            words = str(opened.info.get(DESCRIPTION, ""))
            width, height = opened.size
    except (OSError, ValueError, SyntaxError):  # what Pillow raises of a damaged file
        return None
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Picture(path.stem, uri, words, width, height)
