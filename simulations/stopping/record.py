"""Trains a configuration to its full budget, once per seed, and writes down what rules look at."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedward.common.config.loader import config_hash, run_config_dict, run_config_from_dict
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.monitoring.thresholds import optimizer_key
from fedward.common.task import Split
from fedward.server.history import Entry, History
from fedward.server.rounds import RoundReport
from fedward.simulations.federation import Federation, run_federation
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.stopping.observer import UpdateObserver, validation_loss
from fedward.simulations.stopping.recording import VALIDATION_LOSS, RecordedRound, Recording

VALIDATION_FRACTION = 0.2
"""Of the training patients, where the configuration has none: most rules need some."""
OnRound = Callable[[RoundReport], None]


def recorded_config(config: RunConfig) -> RunConfig:
    """Return `config` as it is recorded: to its last round, watched and evaluated each round.

    Where it has no validation patients, `VALIDATION_FRACTION` of the training patients become such.
    """
    values = run_config_dict(config)
    values["data"]["validation_fraction"] = config.data.validation_fraction or VALIDATION_FRACTION
    monitor = {key: value for key, value in values["monitor"].items() if key != "stop"}
    cme = {**monitor.get("cme", {}), "maps": False}
    values |= {"monitor": {**monitor, "cme": cme, "influence": True}, "evaluate_every": 1}
    values |= {"baselines": [], "repeat": None}
    return run_config_from_dict({k: v for k, v in values.items() if v is not None})


def make_cohort(config: RunConfig, say: Callable[[str], None]) -> None:
    """Make the phantoms that the configuration asks for, if any."""
    if config.data.to_make is not None:
        from fedward.simulations.image_sites import make_phantoms

        make_phantoms(config.data.to_make, say=say)


def record(
    config: RunConfig, seed: int, base_dir: Path, *, grid: SimulationGrid, on_round: OnRound
) -> Recording:
    """Train `config` with one seed for all its rounds, and return what happened.

    Args:
        config: from `recorded_config`.
        seed: of split, first weights and batches.
        base_dir: folder that relative paths start from.
        grid: the engine.
        on_round: is shown each round.

    Raises:
        SiteDataError: no site has a validation loss, or the figure by which models are compared.
    """
    with tempfile.TemporaryDirectory(prefix="fedward-stopping-") as folder:
        federation = federation_of(config, seed, base_dir, Path(folder))
        history = History()
        observer = UpdateObserver(validation_loss(federation))
        run_federation(federation, grid, history=history, on_round=on_round, observers=(observer,))
    task = federation.task
    other = [task.secondary_metric] if task.secondary_metric else []
    assert config.monitor.cme is not None
    recording = Recording(
        seed=seed,
        primary_metric=task.primary_metric,
        other_metrics=other,
        optimizer=optimizer_key(config.local.optimizer, config.local.momentum),
        form=config.monitor.cme.form,
        epochs_per_round=config.local.epochs or 1,
        config_hash=config_hash(config),
        rounds=recorded_rounds(history.entries, observer),
    )
    for name in (VALIDATION_LOSS, task.primary_metric):
        if any(name not in this.figures for this in recording.rounds):
            raise SiteDataError(
                f"seed {seed}: no site reports {name} in every round; with more patients, or a "
                "larger data.validation_fraction, they would"
            )
    return recording


def federation_of(config: RunConfig, seed: int, base_dir: Path, folder: Path) -> Federation:
    """Return the federation of one seed; `folder` holds what its sites keep."""
    split = Split(seed=seed, test_fraction=config.data.test_fraction)
    config = config.model_copy(update={"seed": seed})
    store = folder / "site-store.sqlite"
    return Federation(config, "federated", split, base_dir, store=store)


def recorded_rounds(
    entries: Sequence[Entry], observer: UpdateObserver
) -> tuple[RecordedRound, ...]:
    """Return the rounds of a history with what was seen of their updates.

    A round that was skipped has the figures of the model that it left as it was.
    """
    by_round: dict[int, list[Entry]] = {}
    for entry in entries:
        by_round.setdefault(entry.round_number, []).append(entry)
    rounds: list[RecordedRound] = []
    figures: Mapping[str, float] = {}
    for number in sorted(number for number in by_round if number > 0):
        lines = by_round[number]
        evaluated = [e for e in lines if e.phase == "evaluate" and e.site is None]
        figures = evaluated[-1].metrics if evaluated else figures
        rounds.append(_recorded(number, lines, figures, observer))
    return tuple(rounds)


def _recorded(
    number: int, lines: Sequence[Entry], figures: Mapping[str, float], observer: UpdateObserver
) -> RecordedRound:
    trained = [e for e in lines if e.phase == "train" and e.status == "ok"]
    sites = {entry.site: entry for entry in trained if entry.site is not None}
    whole: Mapping[str, Any] = next((e.update for e in trained if e.site is None), {})
    cosines = [e.update["cosine"] for e in sites.values() if "cosine" in e.update]
    return RecordedRound(
        number=number,
        num_trained=len(sites),
        figures=dict(figures),
        cme={site: entry.cme for site, entry in sites.items() if entry.cme},
        norm_ratio=whole.get("norm_ratio"),
        cosine_of_sites=sum(cosines) / len(cosines) if cosines else None,
        cosine_to_last=whole.get("cosine"),
        pflug=observer.pflug.get(number),
        left_out=observer.left_out.get(number, {}),
    )


def check_seeds(config: RunConfig, num_seeds: int) -> list[int]:
    """Return the seeds: as many as asked for, from the configuration's own on.

    Raises:
        ConfigError: fewer than three; each is judged by rules tuned on at least two others.
    """
    if num_seeds < 3:
        raise ConfigError(
            f"--seeds: given {num_seeds}, expected at least 3; the rules that one seed is judged "
            "by are tuned on the others, each with a budget from others again"
        )
    return list(range(config.seed, config.seed + num_seeds))
