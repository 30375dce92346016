"""The networks of images that a run can name, each imported when it is built.

MONAI takes seconds to import and belongs to an optional extra, so nothing here imports it. What a
network is built from, is given and answers with: `fedward.common.models.image_form`.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.options import checked_options
from fedward.common.models.own_models import own_model
from fedward.common.registry import Registry

EXTRA = "fedward[ct]"
_HERE = "fedward.common.models"

image_models: Registry[str] = Registry("model of images")
"""By name, where the class is: `module:Class`."""
image_models.register("uscnet")(f"{_HERE}.uscnet:USCNet")
image_models.register("unetr")(f"{_HERE}.segmentation_nets:UNETR")
image_models.register("basic-unet")(f"{_HERE}.segmentation_nets:BasicUNet")
image_models.register("seg-resnet")(f"{_HERE}.segmentation_nets:SegResNet")
image_models.register("nnunet")(f"{_HERE}.segmentation_nets:NNUNet")
image_models.register("resformer")(f"{_HERE}.resformer:ResFormer")
image_models.register("dsmt-net")(f"{_HERE}.dsmt_net:DSMTNet")
image_models.register("resnet3d")(f"{_HERE}.classification_nets:ResNet")
image_models.register("cme-resnet")(f"{_HERE}.cme_classifiers:cme_resnet")
image_models.register("cme-densenet")(f"{_HERE}.cme_classifiers:cme_densenet")
image_models.register("cme-alexnet")(f"{_HERE}.cme_classifiers:cme_alexnet")
image_models.register("small-cnn")(f"{_HERE}.small_cnn:SmallCNN")
image_models.register("concat-fusion")(f"{_HERE}.fusion_nets:ConcatFusion")
image_models.register("tmss")(f"{_HERE}.fusion_nets:TMSS")


def build_image_model(
    name: str, form: ImageForm, own: Mapping[str, Any], *, own_models: bool = False
) -> nn.Module:
    """Return a freshly initialised network of images; the caller seeds torch.

    Args:
        name: a registered name, or `my_package:MyNet` where `own_models` allows it.
        form: sizes, structures, classes and fields of the task.
        own: the network's own keys, checked against the constructor's keyword-only parameters.
        own_models: whether `name` may be any importable class. Importing runs code, and at a
            hospital the name comes from the server: leave it False there.

    Raises:
        ConfigError: the name, a key or a value cannot be used, the form does not suit the network,
            or the extra that it needs is not installed.
    """
    if ":" in name:
        constructor = own_model(name, allowed=own_models, known=image_models)
    else:
        constructor = _registered(name)
    options = checked_options(constructor, own, section="model")
    try:
        model = constructor(form, **options)
    except ImportError as error:  # MONAI imports some packages when a block is built
        raise _missing(name, error) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name: {name} does not build a torch.nn.Module")
    return model


def _registered(name: str) -> Callable[..., nn.Module]:
    try:
        path = image_models[name]
    except ConfigError as error:
        raise ConfigError(f"model.name: {error}") from None
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise _missing(name, error) from error
    constructor: Callable[..., nn.Module] = getattr(module, attribute)
    return constructor


def _missing(name: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"model.name: {name} cannot be built here ({error}); "
        f"the packages for CT come with: pip install '{EXTRA}'"
    )
