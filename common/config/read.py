"""Reads one YAML file into a frozen model; each complaint names file, line, key and what to do.

Shared by `run.yaml`, `site.yaml` and `consortium.yaml`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedward.common.config.overrides import Override, apply_overrides, is_under, parse_override
from fedward.common.config.plain_errors import explain, is_declared, spell
from fedward.common.config.yaml_lines import MAX_BYTES, Document, KeyPath, Problem, parse_yaml
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean

Model = TypeVar("Model", bound=BaseModel)


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


def read_config(
    path: str | Path, model: type[Model], overrides: Iterable[str] = ()
) -> tuple[Model, Origin]:
    """Return what the file at `path` says as a `model`, and where it says it.

    Args:
        path: a YAML file.
        model: what the file describes.
        overrides: `key.path=value` each, as given to `--set`; the later one wins.

    Raises:
        ConfigError: the file, or an override, cannot be used; one line for each thing wrong.
    """
    place = str(path)
    document = parse_yaml(_read_text(Path(path)), place)
    if document.value is None and not document.problems:
        raise ConfigError(f"{place}: the file is empty, expected {_expected_top(model)}")
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        line = document.lines.get((), 1)
        raise ConfigError(f"{place}:{line}: given {kind}, expected {_expected_top(model)}")
    parsed = [parse_override(text) for text in overrides]
    values = apply_overrides(
        document.value, parsed, is_declared=lambda key: is_declared(model, key)
    )
    origin = Origin(place, document.lines, parsed)
    return validate(values, model, origin, document), origin


def validate(
    values: dict[str, Any], model: type[Model], origin: Origin, document: Document
) -> Model:
    """Return `values` as a `model`, or raise all problems at once, in the file's order.

    Raises:
        ConfigError: a value cannot be used; one line for each thing wrong.
    """
    problems = list(document.problems)
    broken = {problem.path for problem in problems if problem.path}
    config = None
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        found = explain(error, model)
        problems += [one for one in found if not any(is_under(one.path, top) for top in broken)]
    if problems or config is None:
        problems.sort(key=lambda one: one.line or origin.line(one.path))
        raise ConfigError("\n".join(_sentence(problem, origin) for problem in problems))
    return config


def parse_key(key: str) -> KeyPath:
    """Return the path that `key` spells: ("repeat", "seeds", 1) for `repeat.seeds[1]`."""
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)
    return tuple(int(index) if index else name for index, name in parts)


def _sentence(problem: Problem, origin: Origin) -> str:
    key = f"{spell(problem.path)}: " if problem.path else ""
    return f"{origin.of(problem.path, problem.line)}: {key}{problem.text}"


def _expected_top(model: type[BaseModel]) -> str:
    keys = [name for name, info in model.model_fields.items() if info.is_required()]
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
