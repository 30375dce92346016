"""Runs a configuration on this machine or a cluster, and leaves a run folder behind."""

import datetime
import json
import shutil
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.common.config.loader import (
    Repetition,
    config_hash,
    expand_repeats,
    load_run_config,
    resolved_yaml,
)
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError, FedwardError
from fedward.common.quiet import quiet_third_parties
from fedward.simulations.console import Display, NullDisplay
from fedward.simulations.engine import open_grid
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.memory import PeakMemory

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

BASE_DIR_FILE = "base_dir.txt"


class Run:
    """A finished run: its folder, and what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text("utf-8"))
        return summary

    @property
    def history(self) -> "pd.DataFrame":
        """`history.jsonl` as a table, one row per round and site; metrics are columns."""
        import pandas as pd

        from fedward.server.history import read_history

        return pd.json_normalize(read_history(self.folder / "history.jsonl"))

    def model(self) -> "nn.Module":
        """Return the trained global model.

        What is not shared holds its initial values: those of a site are at the site.
        """
        from fedward.common.study import Study
        from fedward.common.task import Split
        from fedward.common.weights import load_weights

        config = load_run_config(self.folder / "config.yaml").config
        base_dir = Path((self.folder / BASE_DIR_FILE).read_text("utf-8"))
        plain = config.model.model_copy(update={"lora": None})  # folded into their layers
        config = config.model_copy(update={"model": plain})
        model = Study(config, "federated", Split(config.seed), base_dir).new_model()
        load_weights(model, self.folder / "model.safetensors")
        return model


def simulate(  # noqa: PLR0913 - what, where, and how it is shown
    config: RunConfig,
    *,
    base_dir: Path | None = None,
    out: Path = Path("runs"),
    resume: Path | None = None,
    display: Display | None = None,
    report: bool = True,
) -> Run:
    """Run `config` with all its repetitions and baselines, and return the run.

    Args:
        config: from `load_run_config`, or built in Python.
        base_dir: folder that relative paths in the configuration start from; default: here.
        out: where the run folder is made.
        resume: a run folder to go on with; `config` must be its configuration.
        display: shows progress; none by default.
        report: whether to write report, plots and model card; `fedward report` does it later.

    Raises:
        FedwardError: as its subclasses say.
    """
    if config.synthesis is not None:
        raise ConfigError(
            "synthesis: this run makes synthetic rows; hold it with: fedward synth federated"
        )
    quiet_third_parties()
    base_dir = (base_dir or Path.cwd()).resolve()
    before = latest_of(out)
    folder = resume or new_folder(out, config.name)
    write_config(folder, config, base_dir)
    point_latest(out, folder)  # at once: an interrupted run is what `--resume latest` is for
    shown = display or NullDisplay()
    try:
        return _simulate(config, folder, base_dir, display=shown, report=report)
    except FedwardError:
        if resume is None and not _has_begun(folder):
            if latest_of(out) == folder:
                point_latest(out, before)
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shown.close()


def _has_begun(folder: Path) -> bool:
    """Return whether a run has got as far as its first round."""
    return any(next(folder.rglob(name), None) for name in ("history.jsonl", "checkpoints"))


def _simulate(
    config: RunConfig, folder: Path, base_dir: Path, *, display: Display, report: bool
) -> Run:
    started = time.perf_counter()
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    # Ray and its actors first: they import torch while this process does.
    grid = open_grid(config.engine)
    try:
        with PeakMemory() as memory:
            summary = _run_all(config, folder, base_dir, grid=grid, display=display)
    finally:
        grid.close()
    summary["created"] = created
    summary["seconds"]["total"] = round(time.perf_counter() - started, 3)
    summary["seconds"]["start_up"] = round(grid.ready_after_s, 3)
    summary["peak_memory_bytes"] = memory.peak_bytes
    write_json(folder / "summary.json", summary)
    if report:
        _write_report(folder, display)
    run = Run(folder)
    display.finish(run.summary, folder)
    return run


def _run_all(
    config: RunConfig, folder: Path, base_dir: Path, *, grid: SimulationGrid, display: Display
) -> dict[str, Any]:
    from fedward.server.summary import combine
    from fedward.simulations.repetition import run_repetition

    if config.data.to_make is not None:
        from fedward.simulations.image_sites import make_phantoms

        make_phantoms(config.data.to_make, say=display.phase)
    repetitions = expand_repeats(config)
    if len(repetitions) == 1:
        return run_repetition(config, repetitions[0], folder, base_dir, grid=grid, display=display)
    summaries = []
    for repetition in repetitions:
        own = folder / "repeats" / repetition.label
        done = own / "summary.json"
        if done.exists():
            summaries.append(json.loads(done.read_text("utf-8")))
            continue
        display.phase(f"repetition {repetition.label}")
        own.mkdir(parents=True, exist_ok=True)
        summary = run_repetition(config, repetition, own, base_dir, grid=grid, display=display)
        write_json(done, summary)
        summaries.append(summary)
    _adopt_first(folder, repetitions)
    return combine(summaries)


def _adopt_first(folder: Path, repetitions: Sequence[Repetition]) -> None:
    """Curves and model of the run folder are those of its first repetition."""
    first = folder / "repeats" / repetitions[0].label
    for name in ("history.jsonl", "model.safetensors"):
        (folder / name).write_bytes((first / name).read_bytes())


def find_run(name: str, out: Path = Path("runs")) -> Path:
    """Return the folder of a run given as a path, as a name under `out`, or as `latest`.

    Raises:
        ConfigError: there is no such run folder.
    """
    for folder in (Path(name), out / name):
        if (folder / "config.yaml").exists():
            return folder.resolve()
    raise ConfigError(f"no run at {name!r}, nor at {out / name}; a run folder holds config.yaml")


def new_folder(out: Path, name: str) -> Path:
    """Make and return the folder of a new run, named after it and the time.

    Raises:
        ConfigError: it cannot be made.
    """
    stamp = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        suffix = "" if number == 1 else f"-{number}"
        folder = out / f"{name}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # two runs in one second
            continue
        except OSError as error:
            raise ConfigError(f"--out: cannot make {folder}: {error.strerror}") from error
        return folder.resolve()
    raise ConfigError(f"--out: too many runs in {out}")


def write_config(folder: Path, config: RunConfig, base_dir: Path) -> None:
    """Write the resolved configuration; a resumed run must have the same.

    Raises:
        ConfigError: the folder holds another configuration.
    """
    file = folder / "config.yaml"
    if file.exists():
        before = load_run_config(file).config
        if config_hash(before) != config_hash(config):
            raise ConfigError(
                f"--resume: {folder} holds another configuration; without CONFIG the run's own is "
                "taken, and only `rounds` may be changed with --set"
            )
    file.write_text(resolved_yaml(config), encoding="utf-8")
    (folder / BASE_DIR_FILE).write_text(str(base_dir), encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    from fedward.server.checkpoint import write_atomically

    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _write_report(folder: Path, display: Display) -> None:
    from fedward.server.report import build_report, write_model_card, write_plots

    display.phase("report")
    build_report(folder)
    write_plots(folder)
    write_model_card(folder)


def latest_of(out: Path) -> Path | None:
    """Return the folder that `latest` points to; None where there is none."""
    link = out / "latest"
    return link.resolve() if link.is_symlink() else None


def point_latest(out: Path, folder: Path | None) -> None:
    """Let `latest` point to the newest run, where the file system has links; None: to nothing."""
    link = out / "latest"
    try:
        link.unlink(missing_ok=True)
        if folder is None:
            return
        link.symlink_to(folder.name if folder.parent == out.resolve() else folder)
    except OSError:
        # Windows without the right to make links: the report's path is printed anyway.
        return
