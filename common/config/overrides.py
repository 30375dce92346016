"""`--set key.path=value`: the only way to change a configuration from outside its file.

The value is read by the same YAML rules as the file. `null` takes a key out: an optional key goes
back to its default, and `--set data.sites.va=null` leaves that site out of the run.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedward.common.config.yaml_lines import KeyPath, parse_yaml
from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean

_LONGEST_PLACE = 70


@dataclass(frozen=True)
class Override:
    """One `--set`, parsed."""

    path: tuple[str, ...]
    value: Any
    place: str
    """How messages call it: the option as it was typed, shortened."""


def parse_override(text: str) -> Override:
    """Return what `key.path=value` asks for.

    Raises:
        ConfigError: there is no `=`, no key, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    typed = " ".join(text.split())
    place = f"--set {typed}" if len(typed) <= _LONGEST_PLACE else f"--set {key}=..."
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"{place}: expected key.path=value, such as --set local.epochs=2")
    document = parse_yaml(value, place, one_line=True)
    if document.problems:
        raise ConfigError(f"{place}: {document.problems[0].text}")
    return Override(path, document.value, place)


def apply_overrides(
    values: Mapping[str, Any],
    overrides: Iterable[Override],
    *,
    is_declared: Callable[[KeyPath], bool],
) -> dict[str, Any]:
    """Return a copy of `values` with the overrides applied in their order.

    Sections that are not there yet are made. Whether a key exists at all is checked with the rest
    of the configuration, except for one that is taken out: nothing of it is left to check.

    Args:
        values: what the file says.
        overrides: the later one wins.
        is_declared: whether a path is a key that every configuration may have.

    Raises:
        ConfigError: a key leads into a value that is no section, or takes out an unknown entry.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(changed, override, is_declared)
    return changed


def is_under(path: KeyPath, top: KeyPath) -> bool:
    """Return whether `path` is `top` or lies below it."""
    return path[: len(top)] == top


def _apply(
    values: dict[str, Any], override: Override, is_declared: Callable[[KeyPath], bool]
) -> None:
    section = values
    *parents, last = override.path
    for depth, part in enumerate(parents, start=1):
        below = section.get(part)
        if below is None:
            below = {}
            if override.value is not None:
                section[part] = below
        if not isinstance(below, dict):
            raise ConfigError(_no_section(override, ".".join(parents[:depth]), below))
        section = below
    if override.value is not None:
        section[last] = override.value
    elif last in section:
        del section[last]
    elif not is_declared(override.path):
        hint = did_you_mean(last, section)
        raise ConfigError(f"{override.place}: there is no {last!r} to take out{hint}")


def _no_section(override: Override, key: str, below: Any) -> str:
    if isinstance(below, list):
        return f"{override.place}: {key} is a list; give all of it, such as --set {key}=[1,2]"
    return f"{override.place}: {key} is no section; it holds a single value"
