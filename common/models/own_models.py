"""A user's own network, named as `package.module:ClassName`."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fedward.common.errors import ConfigError


def own_model(path: str, *, allowed: bool, known: Iterable[str]) -> Callable[..., nn.Module]:
    """Return the class or function at `path`.

    Args:
        path: `package.module:ClassName`.
        allowed: importing runs code, and at a hospital the name comes from the server: then False.
        known: the names that may be used instead.

    Raises:
        ConfigError: it is not allowed, is not there, or does not build anything.
    """
    if not allowed:
        raise ConfigError(
            f"model.name: {path} is not a model of fedward, and own models are only imported in "
            f"simulations; known: {', '.join(known)}"
        )
    module_name, _, attribute = path.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.name: cannot import {path} ({error}); expected package.module:ClassName"
        ) from error
    if not callable(target):
        raise ConfigError(f"model.name: {path} is not a class or function that builds a model")
    constructor: Callable[..., Any] = target
    return constructor
