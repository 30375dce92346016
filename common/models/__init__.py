"""The networks that a run can name. Filled by the explicit imports below.

Every model is built as `(layout, num_classes, **own)` and maps a batch to logits (B, C). No sample
of a batch sees another one, unless batch normalisation is asked for; B = 0 and B = 1 are legal.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.cnn import CNN
from fedward.common.models.ft_transformer import FTTransformer
from fedward.common.models.layout import FieldLayout
from fedward.common.models.linear import LogisticRegression
from fedward.common.models.mlp import MLP
from fedward.common.models.options import checked_options
from fedward.common.registry import Registry

__all__ = ["CNN", "MLP", "FTTransformer", "FieldLayout", "LogisticRegression", "build", "models"]

models: Registry[Callable[..., nn.Module]] = Registry("model")
models.register("logistic-regression")(LogisticRegression)
models.register("mlp")(MLP)
models.register("ft-transformer")(FTTransformer)
models.register("cnn")(CNN)


def build(
    name: str,
    layout: FieldLayout,
    num_classes: int,
    own: Mapping[str, Any],
    *,
    own_models: bool = False,
) -> nn.Module:
    """Return a freshly initialised model; the caller seeds torch.

    Args:
        name: a registered name, or `my_package:MyNet` where `own_models` allows it.
        layout: which columns of `features` belong to which field.
        num_classes: C >= 2.
        own: the model's own keys, checked against the constructor's keyword-only parameters.
        own_models: whether `name` may be any importable class. Importing runs code, and at a
            hospital the name comes from the server: leave it False there.

    Raises:
        ConfigError: the name, a key or a value cannot be used.
    """
    constructor = _imported(name, allowed=own_models) if ":" in name else _registered(name)
    model = constructor(layout, num_classes, **checked_options(constructor, own, section="model"))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {name} does not build a torch.nn.Module")
    return model


def _registered(name: str) -> Callable[..., nn.Module]:
    try:
        return models[name]
    except ConfigError as error:
        raise ConfigError(f"model.name: {error}") from None


def _imported(path: str, *, allowed: bool) -> Callable[..., nn.Module]:
    if not allowed:
        raise ConfigError(
            f"model.name: {path} is not a model of fedward, and own models are only imported in "
            f"simulations; known: {', '.join(models)}"
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
    constructor: Callable[..., nn.Module] = target
    return constructor
