"""Adds to a made-up run what one with images has: figures of masks, a second headline, pictures."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.server.report_fixture import FakeRun, build_run

SITES = ("north", "south", "west")
WORDS = "best: Dice 0.91, median: Dice 0.80, worst: Dice 0.12"


@dataclass(frozen=True)
class Images:
    """What the run of images should look like."""

    secondary: str = "dice"
    pictured: bool = True
    repetitions: int = 1


def build_image_run(folder: Path, run: FakeRun | None = None, images: Images | None = None) -> Path:
    """Write a run like `build_run`, with Dice and HD95 beside AUROC, and pictures."""
    images, run = images or Images(), run or FakeRun(sites=SITES, one_class_site=None)
    build_run(folder, run)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary |= {"task": "ct-lesions", "secondary_metric": images.secondary}
    for level, arm in enumerate([summary, *summary["baselines"].values()]):
        for number, site in enumerate(arm["sites"].values()):
            site["metrics"] |= mask_figures(0.80 - 0.02 * level + 0.01 * number)
        arm["global"]["metrics"] |= mask_figures(0.80 - 0.02 * level)
    path.write_text(json.dumps(summary))
    _add_curves(folder)
    if images.pictured:
        (folder / "pictures").mkdir(exist_ok=True)
        for site in run.sites:
            (folder / "pictures" / f"{site}.png").write_bytes(png())
    return folder


def mask_figures(dice: float, n: int = 60) -> dict[str, Any]:
    return {
        "dice": figure(dice, 0.02, n),
        "hd95_mm": figure(20 * (1 - dice), 0.5, n),
        "num_truth_empty": {"value": 3.0, "n": n},
    }


def figure(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def png(words: str = WORDS, width_px: int = 890, height_px: int = 360) -> bytes:
    """Return a picture of noise with a description."""
    grey_HW = np.random.default_rng(1).integers(0, 255, (height_px, width_px), dtype=np.uint8)
    content, info = io.BytesIO(), PngInfo()
    info.add_text("Description", words)
    Image.fromarray(grey_HW).save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def _add_curves(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines:
        if line["phase"] == "evaluate":
            line["metrics"] |= {"dice": 0.5 + 0.01 * line["round"], "hd95_mm": 9.0}
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
