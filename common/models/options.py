"""Checks a section's own keys against the signature of what they are for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fedward.common.errors import ConfigError
from fedward.common.registry import did_you_mean

Probability = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]


def checked_options(
    constructor: Callable[..., Any], own: Mapping[str, Any], *, section: str
) -> dict[str, Any]:
    """Return `own`, each value checked against the keyword-only parameter of its name.

    Args:
        constructor: its annotations say what is allowed; `Annotated[..., Field(ge=...)]` bounds it.
        own: keys and values from a configuration.
        section: names the keys in errors.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of another type or out of bounds.
    """
    parameters = inspect.signature(constructor, eval_str=True).parameters
    known = {k: p for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in own if key not in known]
    if unknown and not takes_any:
        raise ConfigError(
            f"{section}.{unknown[0]}: unknown key{did_you_mean(unknown[0], known)}; "
            f"{getattr(constructor, '__name__', 'it')} has {', '.join(known) or 'no keys'}"
        )
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in own:
            raise ConfigError(f"{section}.{key}: missing; it has no default")
    return {
        key: _checked(f"{section}.{key}", value, known[key].annotation) if key in known else value
        for key, value in own.items()
    }


def _checked(where: str, value: Any, annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return value
    try:
        # strict: "64" is not a number, and True is not 1.
        return TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise ConfigError(f"{where}{place}: {first['msg']}, got {value!r}") from None
