"""YAML 1.2 for configuration files: plain values, the line of each key, and nothing misread.

PyYAML's `safe_load` follows YAML 1.1 and misreads what people write: `NO` becomes false, `010`
becomes 8, `1e-3` stays text, and of two equal keys the last one wins without a word. Here PyYAML
only parses; scalars follow the core schema of YAML 1.2.2, section 10.3.2. Anchors and aliases are
allowed (within a bound); custom tags, merge keys and equal keys are problems.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from fedward.common.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The way to a value: ("data", "sites", "va", "file")."""

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: KeyPath
    text: str
    line: int | None = None
    """Where it is wrong, if that is not simply the line of `path`."""


@dataclass(frozen=True)
class Document:
    """A parsed text: its value, the line of each key in it, and what is wrong with its form."""

    value: Any
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def parse_yaml(text: str, place: str, *, one_line: bool = False) -> Document:
    """Return the one document in `text`.

    Args:
        text: at most a configuration's size; the caller bounds it by `MAX_BYTES`.
        place: how messages call the text: a file's name, or `--set rounds=5`.
        one_line: leave line numbers out of messages.

    Raises:
        ConfigError: this is no YAML, or more than one document, or too much of it.
    """

    def at(line: int) -> str:
        return place if one_line else f"{place}:{line}"

    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        builder = _Builder()
        value = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise ConfigError(f"{at(line)}: not valid YAML: {_reason(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{at(line)}: not valid YAML: a control character, expected plain text"
        ) from None
    except RecursionError:
        raise ConfigError(f"{place}: nested too deeply to be a configuration") from None
    except _TooManyValuesError as error:
        raise ConfigError(
            f"{at(error.line)}: more than {MAX_VALUES} values once aliases are followed; "
            "a configuration is smaller than that"
        ) from None
    return Document(value, builder.lines, tuple(builder.problems))


def dump_yaml(value: Any) -> str:
    """Return `value` as YAML that `parse_yaml` reads back as the same value.

    Text that YAML 1.1 or 1.2 would take for something else is quoted.
    """
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=100)


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML fills it per class


class _CoreDumper(yaml.SafeDumper):
    """PyYAML's writer, which quotes what either YAML version would misread."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: list(entries) for first, entries in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal lists out in full: a reader should not have to follow anchors."""
        del data
        return True


_PREFIX = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": (r"~|null|Null|NULL|", ["", *"~nN"]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
}
for _name, (_pattern, _first) in _PATTERNS.items():
    for _class in (_CoreLoader, _CoreDumper):
        _class.add_implicit_resolver(_PREFIX + _name, re.compile(f"^(?:{_pattern})$"), _first)


def _read_int(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _read_float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_READERS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text == "true",
    "int": _read_int,
    "float": _read_float,
}


class _TooManyValuesError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Builder:
    """Turns PyYAML's nodes into plain values, and remembers lines and problems."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._num_values = 0
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the value of `node`, which stands at `path`."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _TooManyValuesError(line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_PREFIX}map", f"{_PREFIX}seq"):
            return self._refuse(path, f"the tag {_short(node.tag)} is not allowed here")
        if any(node is outer for outer in self._open):
            return self._refuse(path, "this alias leads back into itself")
        self._open.append(node)
        value = (
            self._mapping(node, path)
            if isinstance(node, yaml.MappingNode)
            else [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        )
        self._open.pop()
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, path, line)
            if key is None:
                continue
            if key in value:
                first = self.lines[(*path, key)]
                self._refuse((*path, key), f"given twice, first in line {first}; keep one", line)
                continue
            self.lines[(*path, key)] = line
            value[key] = self.build(child, (*path, key))
        return value

    def _key(self, node: yaml.Node, path: KeyPath, line: int) -> str | None:
        """Return the key that `node` spells, or None (and a problem) if that is not text."""
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(path, "a key is a list or a section, expected text", line)
            return None
        if node.tag == f"{_PREFIX}str" and node.value != "<<":
            return str(node.value)
        if node.value == "<<":
            text = "merge keys (<<) are not part of YAML 1.2; write the keys out"
        else:
            text = f"the key {node.value!r} is not read as text; put it in quotes"
        self._refuse(path, text, line)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        name = node.tag.removeprefix(_PREFIX)
        if name == "str":
            return str(node.value)
        if name not in _READERS:
            return self._refuse(path, f"the tag {_short(node.tag)} is not allowed here")
        if not re.fullmatch(_PATTERNS[name][0], node.value):
            return self._refuse(path, f"the tag !!{name} does not fit what follows it")
        try:
            return _READERS[name](node.value.lower())
        except ValueError:  # Python refuses integers of thousands of digits.
            return self._refuse(path, "a number with too many digits")

    def _refuse(self, path: KeyPath, text: str, line: int | None = None) -> None:
        self.problems.append(Problem(path, text, line))


def _short(tag: str) -> str:
    return tag.replace(_PREFIX, "!!")


def _reason(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's complaint as one line, with advice where the cause is a usual one."""
    text = error.problem or error.context or "it cannot be parsed"
    if "\\t" in text:
        return "a tab; indent with spaces"
    if "but found another document" in text:
        return "a second document begins here; give one per file"
    return " ".join(text.split())
