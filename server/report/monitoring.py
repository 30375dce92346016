"""What watching a run found, as arrays over its rounds: R rounds, NaN where nothing was reported.

Read from `history.jsonl`; the covariance maps and the raw ACF only where `cme/` is there.
"""

import filecmp
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.errors import FedwardError
from fedward.common.monitoring.map_files import list_maps, read_maps
from fedward.server.report.series import Floats, read_lines, thin

MAPS_DIR = "cme"
LAYER_FIGURES = ("log_mag", "rho", "map_cos", "top1", "acf")
UPDATE_FIGURES = ("influence", "cosine", "norm_ratio")
RESTS = "saturated: rests"
MAX_MAP_FILES = 500
"""Of a site, that are read for its ACF: a figure of more rounds than that has gaps."""


@dataclass(frozen=True)
class SiteMonitoring:
    """One site. Lists are numbers of rounds."""

    layers: dict[str, dict[str, Floats]]
    """By layer, (R,) of each of LAYER_FIGURES that the site has."""
    influence: Floats
    cosine: Floats
    norm_ratio: Floats
    saturated: list[int]
    """Rounds after which the site's weights went nowhere any more."""
    rests: list[int]
    """Rounds in which the site was not asked because it was saturated."""
    epsilon: Floats


@dataclass(frozen=True)
class Monitoring:
    """One run."""

    numbers: list[int]
    """The R rounds."""
    sites: dict[str, SiteMonitoring]
    federation_norm_ratio: Floats
    federation_cosine: Floats
    """Of each round's update to that of the round before."""
    federation_saturated: list[int]
    maps: dict[str, dict[int, Path]]
    """By site and round, where maps were kept."""
    is_quantised: bool
    """Whether the sites rounded their figures because nothing protects them."""
    totals: dict[str, Any] = field(default_factory=dict)
    """`summary.json`'s `monitor`; empty while a run goes on."""

    @property
    def layers(self) -> list[str]:
        """Every watched layer, in the order in which the sites name them."""
        return list(dict.fromkeys(layer for site in self.sites.values() for layer in site.layers))

    def layer_figure(self, site: str, layer: str, name: str) -> Floats:
        """Return (R,) a figure of a layer at a site; all NaN where there is none."""
        found = self.sites[site].layers.get(layer, {}).get(name)
        return np.full(len(self.numbers), np.nan) if found is None else found

    def has(self, name: str) -> bool:
        """Return whether any site has a finite value of a figure."""
        if name in UPDATE_FIGURES:
            return any(np.isfinite(getattr(site, name)).any() for site in self.sites.values())
        return any(
            np.isfinite(figures[name]).any()
            for site in self.sites.values()
            for figures in site.layers.values()
            if name in figures
        )


def read_monitoring(
    run_dir: Path, lines: Sequence[Mapping[str, Any]] | None = None
) -> Monitoring | None:
    """Return what watching the run in `run_dir` found; None where nothing was watched.

    Works while the run goes on: a cut last line and a missing `summary.json` are taken as such.

    Args:
        run_dir: the run's folder.
        lines: of its history, where they were read already.

    Raises:
        FedwardError: a line other than the last is not JSON.
    """
    summary = _summary(run_dir / "summary.json")
    return assemble(
        read_lines(run_dir) if lines is None else lines,
        list_maps(maps_folder(run_dir)),
        summary.get("monitor"),
        known_sites=list(summary.get("sites") or []),
    )


def maps_folder(run_dir: Path) -> Path:
    """Return where the maps of a run lie; of several repetitions those of the first."""
    history = run_dir / "history.jsonl"
    if (run_dir / MAPS_DIR).is_dir() or not history.exists():
        return run_dir / MAPS_DIR
    for own in sorted(run_dir.glob("repeats/*/history.jsonl")):
        if (own.parent / MAPS_DIR).is_dir() and filecmp.cmp(own, history, shallow=False):
            return own.parent / MAPS_DIR
    return run_dir / MAPS_DIR


def assemble(
    lines: Iterable[Mapping[str, Any]],
    maps: Mapping[str, Mapping[int, Path]] | None = None,
    totals: Mapping[str, Any] | None = None,
    *,
    known_sites: Sequence[str] = (),
) -> Monitoring | None:
    """Return the monitoring in the lines of a history and the files of maps, or None.

    Sites come in the order of `known_sites`, then those that only lines and maps know.
    """
    totals = totals if isinstance(totals, Mapping) else {}
    kept = [line for line in lines if line.get("round", 0) > 0 and line.get("phase") == "train"]
    files_by_site = {site: dict(files) for site, files in (maps or {}).items()}
    if not files_by_site and not totals and not any(_is_watched(line) for line in kept):
        return None
    numbers = sorted(
        {line["round"] for line in kept} | {n for f in files_by_site.values() for n in f}
    )
    names = dict.fromkeys(str(line["site"]) for line in kept if line.get("site") is not None)
    seen = {*names, *files_by_site}
    order = [*(s for s in known_sites if s in seen), *sorted(seen - set(known_sites))]
    tables = {site: _Table(numbers) for site in order}
    federation = _Table(numbers)
    for line in kept:
        site = line.get("site")
        (federation if site is None else tables[str(site)]).add(line)
    for site, files in files_by_site.items():
        tables[site].add_acf(files)
    return Monitoring(
        numbers=numbers,
        sites={site: table.result() for site, table in tables.items()},
        federation_norm_ratio=federation.updates["norm_ratio"],
        federation_cosine=federation.updates["cosine"],
        federation_saturated=sorted(federation.saturated),
        maps=files_by_site,
        is_quantised=totals.get("telemetry") == "quantised" or _look_rounded(kept),
        totals=dict(totals),
    )


class _Table:
    """The figures of one site, filled line by line."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.row = {number: index for index, number in enumerate(numbers)}
        self.updates = {name: self._empty() for name in UPDATE_FIGURES}
        self.layers: dict[str, dict[str, Floats]] = {}
        self.epsilon = self._empty()
        self.saturated: set[int] = set()
        self.rests: set[int] = set()

    def add(self, line: Mapping[str, Any]) -> None:
        row = self.row[line["round"]]
        for name, value in _finite(line.get("update")):
            if name in self.updates:
                self.updates[name][row] = value
        for layer, figures in (line.get("cme") or {}).items():
            self.layers.setdefault(str(layer), {})  # one without figures is watched all the same
            for name, value in _finite(figures):
                self._put(str(layer), name, row, value)
        for name, value in _finite({"epsilon": line.get("epsilon"), **(line.get("metrics") or {})}):
            if name == "epsilon":
                self.epsilon[row] = value
        if line.get("saturated") is True:
            self.saturated.add(line["round"])
        if line.get("status") == "skipped" and line.get("reason") == RESTS:
            self.rests.add(line["round"])

    def add_acf(self, files: Mapping[int, Path]) -> None:
        """Take from map files what the history does not hold: the paper's ACF stays at a site."""
        numbers = sorted(files)
        for number in (numbers[place] for place in thin(len(numbers), MAX_MAP_FILES)):
            for layer, figures in _figures_of(files[number]).items():
                self.layers.setdefault(layer, {})
                for name, value in _finite(figures):
                    known = self.layers.get(layer, {}).get(name)
                    if known is None or not np.isfinite(known[self.row[number]]):
                        self._put(layer, name, self.row[number], value)

    def _put(self, layer: str, name: str, row: int, value: float) -> None:
        if name in LAYER_FIGURES:
            self.layers[layer].setdefault(name, self._empty())[row] = value

    def _empty(self) -> Floats:
        return np.full(len(self.row), np.nan)

    def result(self) -> SiteMonitoring:
        return SiteMonitoring(
            layers=self.layers,
            **self.updates,
            saturated=sorted(self.saturated),
            rests=sorted(self.rests),
            epsilon=self.epsilon,
        )


def _figures_of(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the figures by layer in a map file; one that is unreadable has none."""
    try:
        return _read_figures(path, path.stat().st_mtime_ns)
    except OSError:  # removed since its folder was listed
        return {}


@lru_cache(maxsize=20_000)
def _read_figures(path: Path, written_ns: int) -> Mapping[str, Mapping[str, Any]]:
    del written_ns  # part of the key: the live page reads again and again
    try:
        layers = read_maps(path)
    except FedwardError:
        return {}
    return {name: {**one.figures.to_json(), "acf": one.acf} for name, one in layers.items()}


def _is_watched(line: Mapping[str, Any]) -> bool:
    return any(line.get(key) is not None for key in ("cme", "update", "saturated"))


def _look_rounded(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether every magnitude is a multiple of 0.05, as the gate of a site makes them."""
    values = [
        value
        for line in lines
        for figures in (line.get("cme") or {}).values()
        for name, value in _finite(figures)
        if name == "log_mag"
    ]
    return bool(values) and all(abs(v * 20 - round(v * 20)) < 1e-6 for v in values)


def _finite(figures: Mapping[str, Any] | None) -> Iterable[tuple[str, float]]:
    for name, value in (figures or {}).items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and np.isfinite(value):
            yield str(name), float(value)


def _summary(path: Path) -> dict[str, Any]:
    """Return a summary; empty where the run has not ended, or it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
