"""Adds monitoring to the folder of a run that never happened: figures, maps and totals."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedward.common.monitoring.map_files import write_maps
from fedward.common.monitoring.stream import LayerFigures, LayerRound
from tests.server.report_fixture import FakeRun, build_run

HEAD = ("net.0.weight", "net.2.weight", "net.4.weight")
MID = HEAD[1:2]


@dataclass(frozen=True)
class Watched:
    """How the run was watched."""

    run: FakeRun = field(default_factory=lambda: FakeRun(num_rounds=14))
    layers: tuple[str, ...] = HEAD
    num_neurons: int = 128
    maps: bool = True
    telemetry: str = "quantised"
    tells: bool = True
    """Whether sites let their figures out."""
    influence: bool = True
    saturated_from: int | None = 9
    """Of the first site."""
    stopped: bool = False


def build_watched(folder: Path, watched: Watched | None = None) -> Path:
    """Write the folder of a run that was watched, and return it."""
    watched = watched or Watched()
    build_run(folder, watched.run)
    path = folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [line for old in lines if (line := _watch(old, watched)) is not None]
    path.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in changed))
    summary = json.loads((folder / "summary.json").read_text())
    summary["monitor"] = _totals(watched)
    if watched.stopped:
        summary["stopped_by"] = "saturation"
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    if watched.maps:
        _write_all_maps(folder / "cme", watched)
    return folder


def layer_map(number: int, site: int, num_neurons: int) -> np.ndarray:
    """Return a covariance map: noise at first, then a pattern, ever fainter."""
    generator = np.random.default_rng([number, site])
    noise_PQ = generator.normal(0, 1, (num_neurons, 4 * num_neurons))
    pattern_P = np.sin(np.arange(num_neurons) / (3 + 2 * site)) * min(number, 8) / 8
    size = 10.0 ** (-1 - number / 5)
    map_PP = np.cov(noise_PQ) + 1.5 * np.outer(pattern_P, pattern_P)
    return np.asarray(size**2 * map_PP, np.float32)


def figures_of(number: int, site: int, layer: int) -> dict[str, float]:
    """Return the four numbers, rounded as at a site."""
    rho = 0.9 * float(np.exp(-number / 4)) - 0.45 * (1 - float(np.exp(-number / 6)))
    log_mag = -1 - number / 5 + 0.1 * site - 0.2 * layer
    return {
        "log_mag": round(log_mag * 20) / 20,
        "rho": round((rho + 0.03 * site) * 50) / 50,
        "map_cos": round((1 - float(np.exp(-number / 3))) * 50) / 50,
        "top1": 0.02,
    }


def _watch(line: dict[str, Any], watched: Watched) -> dict[str, Any] | None:
    if line["phase"] != "train":
        return line
    sites, number = watched.run.sites, line["round"]
    if line["site"] is None:
        late = watched.saturated_from is not None and number > watched.saturated_from + 3
        update = {"norm_ratio": 0.3 * float(np.exp(-number / 5)), "cosine": 0.4}
        return {**line, "update": update, "saturated": late}
    index = sites.index(line["site"])
    if line["status"] != "ok":
        return line
    quiet = index == 0 and watched.saturated_from is not None and number >= watched.saturated_from
    if quiet and number % 3 == 0:
        rests = {"status": "skipped", "reason": "saturated: rests"}
        return {key: line[key] for key in ("round", "site", "phase")} | rests
    more: dict[str, Any] = {}
    if watched.influence:
        share = (1 + index) / sum(range(1, len(sites) + 1))
        more["update"] = {"influence": share, "cosine": 0.8 - 0.1 * index / len(sites),
                          "norm_ratio": 0.4 * float(np.exp(-number / 5))}  # fmt: skip
    if watched.tells:
        more["cme"] = {
            name: figures_of(number, index, layer) for layer, name in enumerate(watched.layers)
        }
        more["saturated"] = quiet
    return {**line, **more}


def _totals(watched: Watched) -> dict[str, Any]:
    sites = watched.run.sites
    return {
        "client_epochs": 10 * watched.run.num_rounds * len(sites) - 20,
        "client_epochs_saved": 20,
        "telemetry": watched.telemetry,
        "saturated_from": {s: watched.saturated_from if i == 0 else None
                           for i, s in enumerate(sites)},
        "federation_saturated_from": None,
    }  # fmt: skip


def _write_all_maps(folder: Path, watched: Watched) -> None:
    for index, site in enumerate(watched.run.sites):
        for number in range(1, watched.run.num_rounds + 1):
            if (number, index) == (5, 1):
                continue  # that reply was lost
            layers = {
                name: LayerRound(
                    LayerFigures(**figures_of(number, index, layer)),
                    layer_map(number, index, watched.num_neurons),
                    acf=10.0 ** (-2 - number / 5) * (1 + 0.3 * layer) * (1 - 0.2 * index),
                    num_snapshots=10,
                    is_sketched=False,
                )
                for layer, name in enumerate(watched.layers)
            }
            write_maps(folder, site, number, layers)
