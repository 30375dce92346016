"""One file per round that holds all a run needs to go on as if it had never stopped.

A checkpoint is a single `.safetensors` file, written under another name, flushed to disk and
renamed, so that a crash or a full disk leaves the previous one intact. Besides the model it
holds the strategy's own state, the round, the counters, the state of the global random
generators (a strategy may use them), and the hash of the configuration.
"""

import json
import logging
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from fedward.common.errors import ConfigError, StorageError
from fedward.common.flower import view
from fedward.common.records import PARAMETERS, array_record
from fedward.common.tensor_file import tensor_parts
from fedward.common.vectors import Vector

Arrays = dict[str, npt.NDArray[Any]]
log = logging.getLogger("fedward")
KEPT = 2
_IN_FILES = frozenset({"vectors", "previous"})
"""Of `Progress`: in the file's tensors, and in the checkpoint of the round before."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `round_number` rounds."""

    round_number: int
    vectors: Arrays
    """The global model (`parameters`), and the statistics if there are any (`statistics`)."""
    skipped_in_a_row: int = 0
    num_aggregated: int = 0
    best_value: float | None = None
    evaluations_without_gain: int = 0
    previous: Vector | None = None
    """The model before the last round; None where that was skipped, or nobody asks for it."""


@dataclass
class CheckpointFolder:
    """The checkpoints of one run, newest two kept.

    `config_hash` is compared on loading: a checkpoint never continues another configuration.
    """

    path: Path
    config_hash: str
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, progress: Progress, strategy: Strategy) -> Path:
        """Write a checkpoint atomically and return its path.

        Raises:
            StorageError: the disk is full or not writable; earlier checkpoints are intact.
        """
        strategy_arrays, strategy_values = strategy_state(strategy)
        arrays = {f"progress/{key}": value for key, value in progress.vectors.items()}
        arrays |= {f"strategy/{key}": value for key, value in strategy_arrays.items()}
        random_arrays, random_values = _random_state()
        arrays |= {f"random/{key}": value for key, value in random_arrays.items()}
        counters = {name: value for name, value in vars(progress).items() if name not in _IN_FILES}
        meta = {
            "config_hash": self.config_hash,
            "progress": counters,
            "strategy": strategy_values,
            "random": random_values,
        }
        target = self._file(progress.round_number)
        parts = tensor_parts(
            {key: np.ascontiguousarray(value) for key, value in arrays.items()},
            {"fedward": json.dumps(meta)},
        )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(target, *parts)
        except OSError as error:
            raise StorageError(
                f"cannot write checkpoint {target}: {error.strerror}; "
                "free some space and go on with --resume"
            ) from error
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)
        return target

    def load_newest(self, strategy: Strategy, initial: Vector | None = None) -> Progress | None:
        """Restore `strategy` and the random generators, and return the progress, or None.

        Args:
            strategy: as it was built for the run.
            initial: the model before round 1, of which there is no checkpoint.

        Raises:
            ConfigError: the checkpoint belongs to another configuration.
            StorageError: no checkpoint can be read.
        """
        files = self._files()
        for file in reversed(files):
            try:
                progress = self._load(file, strategy)
                return replace(progress, previous=self._before(progress.round_number, initial))
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                log.warning("%s cannot be read (%s); the one before is taken", file, error)
        if files:
            raise StorageError(f"no readable checkpoint in {self.path}")
        return None

    def _before(self, round_number: int, initial: Vector | None) -> Vector | None:
        """Return the model that a round began with, where it is known."""
        if round_number == 1:
            return initial
        try:
            with safe_open(self._file(round_number - 1), framework="numpy") as opened:
                vector: Vector = opened.get_tensor(f"progress/{PARAMETERS}")
        except (SafetensorError, OSError):
            return None
        return vector

    def _file(self, round_number: int) -> Path:
        return self.path / f"round-{round_number:05d}.safetensors"

    def _files(self) -> list[Path]:
        return sorted(p for p in self.path.glob("*.safetensors") if re.match(r"round-\d+", p.name))

    def _load(self, file: Path, strategy: Strategy) -> Progress:
        with safe_open(file, framework="numpy") as opened:
            meta = json.loads(opened.metadata()["fedward"])
        if meta["config_hash"] != self.config_hash:
            raise ConfigError(
                f"{file} was written by another configuration; resume with the config.yaml "
                "of its own run folder"
            )
        arrays = load_file(file)
        restore_strategy(strategy, _under("strategy/", arrays), meta["strategy"])
        _restore_random(_under("random/", arrays), meta["random"])
        return Progress(vectors=_under("progress/", arrays), **meta["progress"])


def write_atomically(target: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `target` so that a reader sees the old file or the new one whole."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def strategy_state(strategy: Strategy) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and the plain values that a strategy keeps between rounds.

    Covers what Flower's strategies use: ArrayRecord, dicts and lists of arrays, and numbers.
    """
    arrays: Arrays = {}
    values: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        parts = _parts(value)
        if parts is not None:
            kind, named = parts
            values[name] = {"kind": kind, "keys": list(named)}
            arrays |= {f"{name}/{key}": array for key, array in named.items()}
        elif value is None or isinstance(value, bool | int | float | str):
            values[name] = {"kind": "value", "value": value}
    return arrays, values


def _parts(value: object) -> tuple[str, Arrays] | None:
    """Return the kind and the named arrays of a value that is made of arrays."""
    if isinstance(value, ArrayRecord):
        return "record", {key: view(array) for key, array in value.items()}
    if isinstance(value, np.ndarray):
        return "array", {"": value}
    if isinstance(value, dict) and all(isinstance(v, np.ndarray) for v in value.values()):
        return "dict", value
    if isinstance(value, list) and all(isinstance(v, np.ndarray) for v in value):
        return "list", {str(index): array for index, array in enumerate(value)}
    return None


def restore_strategy(strategy: Strategy, arrays: Arrays, values: Mapping[str, Any]) -> None:
    """Put the state that `strategy_state` returned back into `strategy`."""
    for name, stored in values.items():
        if stored["kind"] == "value":
            setattr(strategy, name, stored["value"])
            continue
        parts = {key: arrays[f"{name}/{key}"] for key in stored["keys"]}
        restored: Any = parts
        if stored["kind"] == "record":
            restored = array_record(parts)
        elif stored["kind"] == "list":
            restored = list(parts.values())
        elif stored["kind"] == "array":
            restored = parts[""]
        setattr(strategy, name, restored)


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _random_state() -> tuple[Arrays, dict[str, Any]]:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    arrays = {
        "python": np.array(words, dtype=np.uint64),
        "numpy": np.asarray(keys),
        "torch": torch.get_rng_state().numpy(),
    }
    values = {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}
    return arrays, values


def _restore_random(arrays: Arrays, values: Mapping[str, Any]) -> None:
    version, gauss = values["python"]
    random.setstate((version, tuple(int(word) for word in arrays["python"]), gauss))
    name, position, has_gauss, cached = values["numpy"]
    np.random.set_state((name, arrays["numpy"], position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(arrays["torch"]))
