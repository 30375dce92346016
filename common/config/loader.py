"""Reads `run.yaml` into a `RunConfig`; every complaint names file, line, key and what was expected.

Also what a run derives from its configuration: the repetitions, the resolved text that is written
beside the results, and the hash that a checkpoint carries.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fedward.common.config.read import Origin, parse_key, read_config, validate
from fedward.common.config.run import RunConfig
from fedward.common.config.yaml_lines import Document, dump_yaml
from fedward.common.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and where its keys were written."""

    config: RunConfig
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class Repetition:
    """One of the runs that `repeat` asks for."""

    seed: int
    fold: int | None
    """The fold that is held out for testing, from 0; None: the split by `data.test_fraction`."""
    num_folds: int | None
    label: str
    """`seed1` or `seed1-fold0`; names a folder."""

    def configure(self, config: RunConfig) -> RunConfig:
        """Return `config` as this repetition runs it: its seed, and no further repetitions."""
        return config.model_copy(update={"seed": self.seed, "repeat": None})


def load_run_config(path: str | Path, overrides: Iterable[str] = ()) -> LoadedConfig:
    """Return the run that the file at `path` describes, changed by `overrides`.

    Args:
        path: a YAML file.
        overrides: `key.path=value` each, as given to `--set`; the later one wins.

    Raises:
        ConfigError: the file, or an override, cannot be used; one line for each thing wrong.
    """
    return LoadedConfig(*read_config(path, RunConfig, overrides))


def run_config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Return the run that `values` describe, with the keys of `run.yaml`.

    Raises:
        ConfigError: a value cannot be used; one line for each thing wrong.
    """
    return validate(dict(values), RunConfig, Origin(), Document(values))


def key_location(loaded: LoadedConfig, key: str) -> str:
    """Return where `key` (such as `model.hidden`) was written: `run.yaml:12`.

    A key that was not written answers with the line of its section; one that `--set` gave answers
    with that option.
    """
    return loaded.origin.of(parse_key(key))


@contextmanager
def errors_point_to(loaded: LoadedConfig, key: str) -> Iterator[None]:
    """Prefix each `ConfigError` from inside the block with the place of what it is about.

    Values that only their owner can judge (a model's own keys, a strategy's) are refused after
    loading, by code that knows no file. If such a message names a key below `key`, it is pointed
    to that; otherwise to `key`.
    """
    try:
        yield
    except ConfigError as error:
        named = re.search(rf"(?<![\w.-]){re.escape(key)}[\w.\[\]-]*", str(error))
        path = named.group().rstrip(".") if named else key
        text = str(error) if str(error).startswith(key) else f"{key}: {error}"
        raise ConfigError(f"{key_location(loaded, path)}: {text}") from error


def expand_repeats(config: RunConfig) -> list[Repetition]:
    """Return the runs that `config` asks for, seeds outermost; one where nothing is repeated."""
    repeat = config.repeat
    seeds = (repeat.seeds if repeat else ()) or (config.seed,)
    num_folds = repeat.folds if repeat else None
    if num_folds is None:
        return [Repetition(seed, None, None, f"seed{seed}") for seed in seeds]
    return [
        Repetition(seed, fold, num_folds, f"seed{seed}-fold{fold}")
        for seed in seeds
        for fold in range(num_folds)
    ]


def resolved_yaml(config: RunConfig) -> str:
    """Return `config` as YAML with every default written out; it loads as an equal `config`."""
    return dump_yaml(plain_values(config))


def run_config_dict(config: RunConfig) -> dict[str, Any]:
    """Return `config` as plain values with every default; `run_config_from_dict` reads them."""
    values: dict[str, Any] = plain_values(config)
    return values


def config_hash(config: RunConfig) -> str:
    """Return the SHA-256 (hex) of what decides how the model changes from round to round.

    Checkpoints, and what sites keep between rounds, are valid for one hash only. Left out:
    `rounds`, so that a finished run can be resumed for more of them; `engine`, on which results do
    not depend, so that a run can go on elsewhere; `baselines`, which are trained beside the run;
    `repeat`, because each repetition is a run of its own with its own seed.
    """
    kept = {key: value for key, value in plain_values(config).items() if key not in _NOT_HASHED}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_NOT_HASHED = frozenset({"rounds", "engine", "baselines", "repeat"})


def plain_values(value: Any) -> Any:
    """Return `value` as dicts and lists under the keys that users write, absent keys left out."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        declared = {info.alias or name: getattr(value, name) for name, info in fields}
        given = {key: entry for key, entry in declared.items() if entry is not None}
        return plain_values(given | (value.model_extra or {}))
    if isinstance(value, Mapping):
        return {key: plain_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(entry) for entry in value]
    return value
