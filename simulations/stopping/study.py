"""The whole comparison of stop rules for one configuration: record, replay, rest, write down.

In the folder: `recordings/seed-1.json` and so on, from which all else follows; a seed that is
there is not trained again. `stopping.json`, `stopping.csv` and `stopping.png` are written anew.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedward.common.config.loader import (
    config_hash,
    run_config_dict,
    run_config_from_dict,
)
from fedward.common.config.run import RunConfig
from fedward.common.errors import StorageError
from fedward.common.monitoring.saturation import thresholds_for
from fedward.server.checkpoint import write_atomically
from fedward.server.history import History
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import run_federation
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.stopping.comparison import Comparison, Stop, make_stop
from fedward.simulations.stopping.observer import UpdateObserver
from fedward.simulations.stopping.picture import picture
from fedward.simulations.stopping.record import (
    check_seeds,
    federation_of,
    make_cohort,
    record,
    recorded_config,
    recorded_rounds,
)
from fedward.simulations.stopping.recording import Recording
from fedward.simulations.stopping.verdict import as_csv, as_rows, sentences

REST_ROUNDS = 2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """One comparison, and where it is kept.

    Args:
        config: the run, as the user wrote it.
        base_dir: folder that relative paths in it start from.
        folder: where results go.
        num_seeds: from the configuration's own seed on.
        with_rests: also train with resting sites, for which no replay will do.
        say: told of the progress, a line at a time.
    """

    config: RunConfig
    base_dir: Path
    folder: Path
    num_seeds: int = 5
    with_rests: bool = True
    say: Say = lambda text: None

    def run(self) -> Comparison:
        """Record what is not recorded yet, compare the rules, and write the results.

        Raises:
            ConfigError: too few seeds, or a configuration that cannot be run.
            SiteDataError: a site's data, or no validation loss.
            StorageError: the folder cannot be written, or holds other recordings.
        """
        seeds = check_seeds(self.config, self.num_seeds)
        config = recorded_config(self.config)
        kept = self.folder / "recordings"
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"--out: cannot make {kept}: {error.strerror}") from error
        grid = open_grid(config.engine)
        try:
            make_cohort(config, self.say)
            recordings = [self._recording(config, seed, kept, grid) for seed in seeds]
            comparison = Comparison(recordings)
            if self.with_rests:
                rests = [
                    self._rests(config, recording, budget, kept, grid)
                    for recording, budget in zip(recordings, comparison.budgets, strict=True)
                ]
                comparison = Comparison(recordings, rests)
        finally:
            grid.close()
        self._write(config, comparison)
        return comparison

    def _recording(
        self, config: RunConfig, seed: int, kept: Path, grid: SimulationGrid
    ) -> Recording:
        path = kept / f"seed-{seed}.json"
        if path.exists():
            found = Recording.read(path)
            if found.config_hash == config_hash(config) and found.num_rounds >= config.rounds:
                self.say(f"seed {seed}: recorded before")
                return found
            raise StorageError(
                f"{path}: recorded with another configuration, or for fewer rounds; give another "
                "--out, or delete the folder"
            )
        recording = record(
            config,
            seed,
            self.base_dir,
            grid=grid,
            on_round=lambda report: self.say(f"seed {seed}: round {report.number}"),
        )
        recording.write(path)
        return recording

    def _rests(
        self, config: RunConfig, recording: Recording, budget: int, kept: Path, grid: SimulationGrid
    ) -> Stop:
        """Train a seed to its budget with saturated sites resting, unless that is kept already."""
        path = kept / f"seed-{recording.seed}-rests-{budget}.json"
        thresholds = asdict(thresholds_for(recording.optimizer, recording.form))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["thresholds"] == thresholds:
                return Stop(**found["stop"])
        values = run_config_dict(config)
        values["monitor"]["stop"] = {
            "rule": "saturation",
            "action": "skip",
            "rest_rounds": REST_ROUNDS,
        }
        resting = run_config_from_dict(values | {"rounds": budget})
        with tempfile.TemporaryDirectory(prefix="fedward-stopping-") as folder:
            history = History()
            run_federation(
                federation_of(resting, recording.seed, self.base_dir, Path(folder)),
                grid,
                history=history,
                on_round=lambda report: self.say(
                    f"seed {recording.seed}, sites rest: round {report.number} of {budget}"
                ),
            )
        rounds = recorded_rounds(history.entries, UpdateObserver(None))
        stop = make_stop(
            recording,
            budget=budget,
            stopped_at=len(rounds),
            client_epochs=sum(r.num_trained for r in rounds) * recording.epochs_per_round,
            figures=rounds[-1].figures,
        )
        content = {"thresholds": thresholds, "stop": asdict(stop)}
        write_atomically(path, json.dumps(content, allow_nan=False).encode())
        return stop

    def _write(self, config: RunConfig, comparison: Comparison) -> None:
        content: dict[str, Any] = {
            "name": config.name,
            "metric": comparison.recordings[0].primary_metric,
            "sentences": sentences(comparison),
            "budgets": _by_seed(comparison),
            "rules": as_rows(comparison),
            "config": run_config_dict(config),
            "recordings": [recording.to_json() for recording in comparison.recordings],
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        try:
            write_atomically(self.folder / "stopping.json", text.encode())
            write_atomically(self.folder / "stopping.csv", as_csv(comparison).encode())
            write_atomically(self.folder / "stopping.png", picture(config.name, comparison))
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be written ({error.strerror})") from error


def _by_seed(comparison: Comparison) -> dict[str, int]:
    seeds: Sequence[Recording] = comparison.recordings
    return {str(r.seed): budget for r, budget in zip(seeds, comparison.budgets, strict=True)}
