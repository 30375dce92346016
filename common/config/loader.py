"""Reads `run.yaml` into a `RunConfig`; every complaint names file, line, key and what was expected.

Also what a run derives from its configuration: the repetitions, the resolved text that is written
beside the results, and the hash that a checkpoint carries.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedward.common.config.overrides import Override, apply_overrides, is_under, parse_override
from fedward.common.config.plain_errors import explain, is_declared, spell
from fedward.common.config.run import RunConfig
from fedward.common.config.yaml_lines import (
    MAX_BYTES,
    Document,
    KeyPath,
    Problem,
    dump_yaml,
    parse_yaml,
)
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean


@dataclass(frozen=True)
class Origin:
    """Where the keys of a configuration were written, for messages."""

    place: str = "configuration"
    """The file's name as the user gave it."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Sequence[Override] = ()

    def of(self, path: KeyPath, line: int | None = None) -> str:
        """Return `file:line` of `path`, or the `--set` that it comes from."""
        above = [override for override in self.overrides if is_under(path, override.path)]
        below = [override for override in self.overrides if is_under(override.path, path)]
        if above or (below and path not in self.lines):
            return (above or below)[-1].place
        line = line or self.line(path)
        return f"{self.place}:{line}" if line else self.place

    def line(self, path: KeyPath) -> int:
        """Return the line of `path` in the file, or of its nearest section; 0 without one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and where its keys were written."""

    config: RunConfig
    origin: Origin = Origin()


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
    place = str(path)
    document = parse_yaml(_read_text(Path(path)), place)
    if document.value is None and not document.problems:
        raise ConfigError(f"{place}: the file is empty, expected {_expected_top()}")
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        line = document.lines.get((), 1)
        raise ConfigError(f"{place}:{line}: given {kind}, expected {_expected_top()}")
    parsed = [parse_override(text) for text in overrides]
    values = apply_overrides(
        document.value, parsed, is_declared=lambda key: is_declared(RunConfig, key)
    )
    origin = Origin(place, document.lines, parsed)
    return LoadedConfig(_validate(values, origin, document), origin)


def run_config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Return the run that `values` describe, with the keys of `run.yaml`.

    Raises:
        ConfigError: a value cannot be used; one line for each thing wrong.
    """
    return _validate(dict(values), Origin(), Document(values))


def key_location(loaded: LoadedConfig, key: str) -> str:
    """Return where `key` (such as `model.hidden`) was written: `run.yaml:12`.

    A key that was not written answers with the line of its section; one that `--set` gave answers
    with that option.
    """
    return loaded.origin.of(_parse_key(key))


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
    return dump_yaml(_plain(config))


def config_hash(config: RunConfig) -> str:
    """Return the SHA-256 (hex) of what decides how the model changes from round to round.

    Checkpoints, and what sites keep between rounds, are valid for one hash only. Left out:
    `rounds`, so that a finished run can be resumed for more of them; `engine`, on which results do
    not depend, so that a run can go on elsewhere; `baselines`, which are trained beside the run;
    `repeat`, because each repetition is a run of its own with its own seed.
    """
    kept = {key: value for key, value in _plain(config).items() if key not in _NOT_HASHED}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_NOT_HASHED = frozenset({"rounds", "engine", "baselines", "repeat"})


def _plain(value: Any) -> Any:
    """Return `value` as dicts and lists under the keys that users write, absent keys left out."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        declared = {info.alias or name: getattr(value, name) for name, info in fields}
        given = {key: entry for key, entry in declared.items() if entry is not None}
        return _plain(given | (value.model_extra or {}))
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _validate(values: dict[str, Any], origin: Origin, document: Document) -> RunConfig:
    """Return `values` as a `RunConfig`, or raise all problems at once, in the file's order."""
    problems = list(document.problems)
    broken = {problem.path for problem in problems if problem.path}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        found = explain(error, RunConfig)
        problems += [one for one in found if not any(is_under(one.path, top) for top in broken)]
    if problems:
        problems.sort(key=lambda one: one.line or origin.line(one.path))
        raise ConfigError("\n".join(_sentence(problem, origin) for problem in problems))
    return config


def _sentence(problem: Problem, origin: Origin) -> str:
    key = f"{spell(problem.path)}: " if problem.path else ""
    return f"{origin.of(problem.path, problem.line)}: {key}{problem.text}"


def _parse_key(key: str) -> KeyPath:
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)
    return tuple(int(index) if index else name for index, name in parts)


def _expected_top() -> str:
    keys = [name for name, info in RunConfig.model_fields.items() if info.is_required()]
    return f"a section with the keys {', '.join(keys)}"


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path}: this is a folder, expected a YAML file in it")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        folder = path.parent
        neighbours = [one.name for one in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise ConfigError(
            f"{path}: there is no such file{did_you_mean(path.name, neighbours)}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; a configuration is smaller")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
