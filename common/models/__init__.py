"""The networks that a run can name. Filled by the explicit imports below.

Every model is built as `(layout, num_classes, **own)` and maps a batch to logits (B, C). No sample
of a batch sees another one, unless batch normalisation is asked for; B = 0 and B = 1 are legal.
"""

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
from fedward.common.models.own_models import own_model
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
    if ":" in name:
        constructor = own_model(name, allowed=own_models, known=models)
    else:
        constructor = _registered(name)
    model = constructor(layout, num_classes, **checked_options(constructor, own, section="model"))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {name} does not build a torch.nn.Module")
    return model


def _registered(name: str) -> Callable[..., nn.Module]:
    try:
        return models[name]
    except ConfigError as error:
        raise ConfigError(f"model.name: {error}") from None
