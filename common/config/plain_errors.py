"""What pydantic found wrong with a configuration, in a user's words instead of pydantic's.

Each problem says what kind of value was given and what the field expects; what a field expects is
read from its declaration, so that the two cannot drift apart.
"""

import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fedward.common.config.yaml_lines import KeyPath, Problem
from fedward.common.registry import did_you_mean


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Return the problems in `error`, which came from validating against `model`.

    A required key that is misspelled is one problem, not an unknown key and a missing one.
    """
    problems = [_explain_one(dict(detail), model) for detail in error.errors()]
    meant = {
        (*one.path[:-1], key)
        for one in problems
        for key in _keys(_walk(model, one.path[:-1])[1].bare)
        if one.text.endswith(f"did you mean {key!r}?")
    }
    kept = (one for one in problems if one.path not in meant or "missing" not in one.text)
    return tuple(dict.fromkeys(kept))  # A union reports each of its members: keep one.


def spell(path: KeyPath) -> str:
    """Return `path` as users write it: `data.sites.va`, `repeat.seeds[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def is_declared(model: type[BaseModel], path: KeyPath) -> bool:
    """Return whether `path` is a declared key of `model`, not a name that the user chose."""
    reached, slot = _walk(model, path[:-1])
    return len(reached) == len(path) - 1 and path[-1] in _keys(slot.bare)


def _explain_one(detail: dict[str, Any], model: type[BaseModel]) -> Problem:
    path, slot = _walk(model, detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path, model))
    if kind == "missing":
        doc = f": {slot.doc}" if slot.doc else ""
        return Problem(path, f"missing, expected {_describe(slot)}{doc}")
    if kind == "invalid_key":
        return Problem(path[:-1], "a key is not text")
    if kind == "value_error":
        return _broken_rule(path, str(detail["ctx"]["error"]))
    if "[key]" in detail["loc"]:
        names = _walk(model, path[:-1])[1].key()
        return Problem(path, f"this name cannot be used, expected {_describe(names)}")
    given, expected = _given(detail["input"], slot), _describe(slot)
    return Problem(path, f"given {given}, expected {expected}{_nearest(detail['input'], slot)}")


def _broken_rule(path: KeyPath, text: str) -> Problem:
    """Return the problem of a validator of ours; `key.path: text` names the key in its section."""
    key, colon, rest = text.partition(": ")
    if colon and all(part.isidentifier() for part in key.split(".")):
        return Problem((*path, *key.split(".")), rest)
    return Problem(path, text)


def _unknown_key(path: KeyPath, model: type[BaseModel]) -> str:
    """Return what to say about a key that its section does not know."""
    key = str(path[-1])
    siblings = _keys(_walk(model, path[:-1])[1].bare)
    if hint := did_you_mean(key, siblings):
        return f"unknown key{hint}"
    homes = [spell(home) for home in _sections_with(key, model) if home != path[:-1]]
    if homes:
        return f"unknown key here; it belongs under {' or '.join(homes)}"
    return f"unknown key; known here: {', '.join(siblings)}"


def _sections_with(key: str, model: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the sections of `model` that have a key `key`."""
    if path and key in _keys(model):
        yield path
    for name, field in _fields(model):
        section = _bare(field.annotation)
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _sections_with(key, section, (*path, name))


@dataclass(frozen=True)
class _Slot:
    """A place in a configuration: the type and the limits of what may stand there."""

    annotation: Any
    limits: tuple[Any, ...] = ()
    examples: tuple[Any, ...] = ()
    doc: str = ""

    @property
    def bare(self) -> Any:
        """The type without `None` and `Annotated`."""
        return _bare(self.annotation)

    def key(self) -> "_Slot":
        """Return the slot of the keys, where a section's keys are names that the user gives."""
        return _slot_of(get_args(self.bare)[0])


def _walk(model: Any, loc: Iterable[str | int]) -> tuple[KeyPath, _Slot]:
    """Return the part of `loc` that is a path in the configuration, and the slot it leads to.

    pydantic appends names of its own to the path (members of a union, `[key]`): they are left out.
    """
    path: KeyPath = ()
    slot = _Slot(model)
    for part in loc:
        below = _below(slot.bare, part)
        if below is None or part == "[key]":
            break
        path, slot = (*path, part), below
    return path, slot


def _below(annotation: Any, part: str | int) -> _Slot | None:
    """Return the slot under `part` of a section, list or mapping; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = dict(_fields(annotation)).get(str(part))
        return _Slot(Any) if field is None else _slot_of_field(field)
    if get_origin(annotation) in (tuple, list) and isinstance(part, int):
        return _slot_of(get_args(annotation)[0])
    if get_origin(annotation) is dict and isinstance(part, str):
        return _slot_of(get_args(annotation)[1])
    return None


def _slot_of_field(field: FieldInfo) -> _Slot:
    inner = _slot_of(field.annotation)
    doc = " ".join((field.description or "").split())
    examples = tuple(field.examples or inner.examples)
    return _Slot(field.annotation, (*inner.limits, *field.metadata), examples, doc)


def _slot_of(annotation: Any) -> _Slot:
    if get_origin(annotation) is not Annotated:
        return _Slot(annotation)
    base, *extras = get_args(annotation)
    infos = [extra for extra in extras if isinstance(extra, FieldInfo)]
    limits = (limit for info in infos for limit in info.metadata)
    examples = (example for info in infos for example in info.examples or ())
    return _Slot(base, tuple(limits), tuple(examples))


def _bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each field under the key that users write."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _keys(annotation: Any) -> list[str]:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return [key for key, _ in _fields(annotation)] if is_section else []


_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    float | int: "a number",
}
_LONGEST = 10**20
_LONGEST_WORD = 30


def _describe(slot: _Slot) -> str:
    """Return what may stand in `slot`, in words."""
    if slot.examples:
        return f"{_word(slot.bare)} such as {slot.examples[0]}"
    text = ", ".join([_word(slot.bare), *filter(None, map(_limit, slot.limits))])
    if get_origin(slot.bare) in (tuple, list):
        return f"{text} [...], each entry: {_describe(_slot_of(get_args(slot.bare)[0]))}"
    return text


def _word(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return str(args[0]) if len(args) == 1 else f"one of {', '.join(map(str, args))}"
    if origin in (tuple, list):
        return "a list"
    if origin is dict:
        return f"a section of named entries, each {_describe(_slot_of(args[1]))}"
    if keys := _keys(annotation):
        return f"a section with the keys {', '.join(keys)}"
    return _WORDS.get(annotation, "another kind of value")


def _limit(limit: Any) -> str | None:
    """Return one bound of a field in words; None for what is no bound."""
    match limit:
        case annotated_types.Ge(ge=bound):
            return f"at least {bound}"
        case annotated_types.Gt(gt=bound):
            return f"more than {bound}"
        case annotated_types.Le(le=bound):
            return f"at most {bound}"
        case annotated_types.Lt(lt=bound):
            return f"less than {bound}"
        case annotated_types.MinLen(min_length=bound):
            return f"at least {bound} long" if bound > 1 else "not empty"
    return None


def _given(value: Any, slot: _Slot) -> str:
    """Return what kind of value was given; the value itself only where it is a plain number.

    Text may be a path, an address or a secret: it is shown only where one of a few words may
    stand, and only if it looks like a word.
    """
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int():
            return str(value) if abs(value) < _LONGEST else "a very large number"
        case float():
            return str(value) if math.isfinite(value) else "infinity or not-a-number"
        case str() if _is_word(value) and get_origin(slot.bare) is Literal:
            return repr(value)
        case str() if _looks_like_a_number(value) and slot.bare in (int, float):
            return "text that looks like a number (quotes or _ make it text)"
        case str():
            return "text" if value else "empty text"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case Mapping():
            return "a section" if value else "an empty section"
    return f"a {type(value).__name__}"


def _nearest(value: Any, slot: _Slot) -> str:
    """Return the suggestion for a misspelled word where one of a few words may stand."""
    if get_origin(slot.bare) is not Literal or not isinstance(value, str):
        return ""
    return did_you_mean(value, map(str, get_args(slot.bare)))


def _is_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and text.replace("-", "_").isidentifier()


def _looks_like_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
