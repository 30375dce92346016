"""One repetition of a run: the federation, its baselines, and their files in one folder."""

import dataclasses
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedward.common.config.loader import Repetition, config_hash
from fedward.common.config.run import RunConfig
from fedward.common.records import PARAMETERS
from fedward.common.study import Kind
from fedward.common.task import Split
from fedward.common.weights import save_weights
from fedward.server.audit import AuditLog
from fedward.server.checkpoint import CheckpointFolder
from fedward.server.history import History
from fedward.server.rounds import Outcome
from fedward.server.summary import summarise
from fedward.simulations.console import Display
from fedward.simulations.earlier_runs import STORE_FILE
from fedward.simulations.federation import Federation, run_federation
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.pictures import write_pictures

BASELINE_NAMES = {"local": "each site alone", "pooled": "all rows together"}


def run_repetition(  # noqa: PLR0913 - what, where, on which engine, shown how
    config: RunConfig,
    repetition: Repetition,
    folder: Path,
    base_dir: Path,
    *,
    grid: SimulationGrid,
    display: Display,
) -> dict[str, Any]:
    """Run one repetition in `folder`, going on from its newest checkpoint, and summarise it."""
    split = Split(
        seed=repetition.seed,
        test_fraction=config.data.test_fraction,
        fold=repetition.fold,
        num_folds=repetition.num_folds,
    )
    config = repetition.configure(config)
    store = folder / STORE_FILE
    cme = config.monitor.cme
    maps = folder / "cme" if cme is not None and cme.maps else None
    federation = Federation(config, "federated", split, base_dir, store=store, maps=maps)
    display.start(_described(federation, repetition.label))
    audit = AuditLog(folder / "audit.jsonl")
    audit.write("start", config_hash=config_hash(config), seed=split.seed, versions=versions())
    history = History(folder / "history.jsonl")
    checkpoints = CheckpointFolder(folder / "checkpoints", config_hash(config))
    outcome = run_federation(
        federation, grid, history=history, checkpoints=checkpoints, on_round=display.round_done
    )
    baselines: dict[str, Outcome] = {}
    for kind in config.baselines:
        display.phase(f"baseline {kind}: {BASELINE_NAMES[kind]}")
        baselines[kind] = _run_baseline(federation, kind, grid, outcome, folder)
    audit.write("end", stopped_by=outcome.stopped_by, rounds=outcome.progress.round_number)
    model = federation.finished(outcome.progress.vectors[PARAMETERS])
    save_weights(model, folder / "model.safetensors", federation.made)
    write_pictures(federation, outcome.progress, folder)
    summary = summarise(
        federation,
        outcome,
        baselines,
        site_ids=federation.sites.site_ids,
        history=history.entries,
    )
    return {**summary, "versions": versions()}


def _run_baseline(
    federation: Federation, kind: Kind, grid: SimulationGrid, main: Outcome, folder: Path
) -> Outcome:
    """Train with the same number of rounds and epochs as the run had."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind}-") as scratch:
        baseline = dataclasses.replace(
            federation, kind=kind, store=Path(scratch) / STORE_FILE, maps=None
        )
        return run_federation(
            baseline, grid, history=History(), num_rounds=main.progress.round_number
        )


def _described(federation: Federation, label: str) -> dict[str, Any]:
    config = federation.config
    shared, _ = federation.initial
    return {
        "name": config.name,
        "repetition": label,
        "task": config.task,
        "model": config.model.name,
        "strategy": config.strategy.name,
        "engine": config.engine.name,
        "rounds": config.rounds,
        "num_sites": len(federation.sites.site_ids),
        "num_parameters": shared.size,
    }


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    named = {name: version(name) for name in ("fedward", "torch", "flwr", "ray", "numpy")}
    return {"python": platform.python_version(), **named}
