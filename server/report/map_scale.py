"""Covariance maps as pictures: made small, and on one scale of colours for all of them.

Covariances shrink by powers of ten while a model learns, so the scale is linear near 0 and
logarithmic beyond (ours; the paper's figures have a scale each). G x G pixels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedward.common.errors import FedwardError
from fedward.common.monitoring.map_files import read_maps
from fedward.common.wording import MINUS
from fedward.server.report.series import Floats

SIDE = 64
"""Pixels of a map in the page; larger ones are shown as means of blocks."""
STEPS = 127
MAX_DECADES = 6
DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COLOUR_STOPS = (
    (0.0, "#08335c"), (0.18, "#0072b2"), (0.36, "#9cc9e6"), (0.5, "#ffffff"),
    (0.64, "#f6c9a0"), (0.82, "#d55e00"), (1.0, "#5c2400"),
)  # fmt: skip
"""Below 0 blue, above it orange: told apart by those who see no red or no green."""

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MapScale:
    """Where a covariance lies between the two ends of the colours."""

    limit: float
    """The largest size of a covariance that is told apart, > 0."""
    floor: float
    """The size below which colours are nearly white, > 0."""

    def place(self, values: npt.ArrayLike) -> Floats:
        """Return the places of values, from -1 to 1; what is not finite lies at 0."""
        found = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        size = np.log1p(np.abs(found) / self.floor) / np.log1p(self.limit / self.floor)
        places: Floats = np.sign(found) * np.minimum(size, 1.0)
        return places

    def steps(self, values: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Return the places in whole steps from -127 to 127: a byte for each pixel."""
        return np.round(self.place(values) * STEPS).astype(np.int8)

    def ticks(self, most: int = 3) -> tuple[list[float], list[str]]:
        """Return places and words of 0 and of at most `most` powers of ten on each side."""
        top = int(np.floor(np.log10(self.limit)))
        low = int(np.ceil(np.log10(self.floor)))
        powers = sorted(set(range(top, low - 1, -max(1, -(-(top - low + 1) // most)))) or {top})
        sizes = [(float(self.place(10.0**p)), f"10{str(p).translate(DIGITS)}") for p in powers]
        below = [(-place, f"{MINUS}{word}") for place, word in reversed(sizes)]
        places, words = zip(*below, (0.0, "0"), *sizes, strict=True)
        return list(places), list(words)


def common_scale(maps: Iterable[npt.NDArray[np.floating]]) -> MapScale:
    """Return one scale for all `maps`: the faintest of them is still told from white."""
    largest, usual = 0.0, []
    for map_GG in maps:
        size = np.abs(map_GG[np.isfinite(map_GG)])
        size = size[size > 0]
        if len(size):
            largest = max(largest, float(np.quantile(size, 0.999)))
            usual.append(float(np.median(size)))
    if not usual:
        return MapScale(limit=1.0, floor=0.1)
    floor = min(max(min(usual) / 4, largest * 10.0**-MAX_DECADES), largest / 10)
    # Squares of tiny numbers: below this a quotient of two of them is no number any more.
    return MapScale(max(largest, 1e-290), max(floor, 1e-291))


def shrink(map_PP: npt.NDArray[np.floating], side: int = SIDE) -> Map:
    """Return a map of at most `side` x `side`, the mean of each block of neurons."""
    size = len(map_PP)
    if size <= side:
        return np.asarray(map_PP, np.float32)
    starts = np.arange(side) * size // side
    width = np.diff([*starts, size])
    blocks = np.add.reduceat(np.add.reduceat(map_PP, starts, axis=0), starts, axis=1)
    return np.asarray(blocks / np.outer(width, width), np.float32)


@dataclass(frozen=True)
class Shown:
    """A map as it is shown."""

    map_GG: Map
    is_sketched: bool


def read_shown(path: Path, side: int = SIDE) -> Mapping[str, Shown]:
    """Return the maps in a file by layer, small; none where it cannot be read."""
    try:
        return _read(path, path.stat().st_mtime_ns, side)
    except OSError:  # removed since its folder was listed
        return {}


@lru_cache(maxsize=2_000)
def _read(path: Path, written_ns: int, side: int) -> Mapping[str, Shown]:
    del written_ns  # part of the key: the live page reads again and again
    try:
        found = read_maps(path)
    except FedwardError:
        return {}
    return {layer: Shown(shrink(one.map_PP, side), one.is_sketched) for layer, one in found.items()}
