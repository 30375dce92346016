"""A trained model as a MONAI bundle: the folder that MONAI's tools and model zoo expect.

    configs/metadata.json    what it is, what goes in and what comes out
    configs/inference.json   how to build it: `python -m monai.bundle` reads it
    models/model.pt          the `state_dict`

The network is fedward's, so that predicting from a bundle needs fedward installed beside MONAI.
Written without MONAI, but for networks of images, which are made of its parts.
"""

import contextlib
import datetime
import io
import json
import pickle
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedward.client.bundle_images import (
    Answer,
    ImageNetwork,
    data_format,
    output_channels,
)
from fedward.client.model_file import (
    TrainedModel,
    metadata_of,
    model_from_metadata,
)
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import write_private
from fedward.common.tables.encode import layout_of
from fedward.common.tables.schema import TableSchema

METADATA = Path("configs") / "metadata.json"
INFERENCE = Path("configs") / "inference.json"
WEIGHTS = Path("models") / "model.pt"
_MONAI = "1.4.0"
"""The oldest version whose bundle format this is."""
IMAGE_PACKAGES = ("nibabel", "einops", "scikit-image")
_META_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


def write_bundle(model: TrainedModel, folder: Path) -> Path:
    """Write the model as a bundle and return its folder.

    Raises:
        ConfigError: the folder holds other files.
        StorageError: it cannot be written.
    """
    if folder.exists() and not is_bundle(folder) and any(folder.iterdir()):
        raise ConfigError(f"--out: {folder} is not empty, and no bundle; name a new folder")
    image = model.config.data.image
    weights = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in model.state.items()}, weights)
    write_private(folder / WEIGHTS, weights.getvalue())
    inference, formats = _for_images(model, image) if image else (_inference(), _formats(model))
    write_private(folder / INFERENCE, _json(inference))
    write_private(folder / METADATA, _json(_metadata(model, formats)))
    return folder


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a bundle."""
    return (folder / METADATA).is_file() and (folder / WEIGHTS).is_file()


def read_bundle(folder: Path) -> TrainedModel:
    """Return the model in a bundle that `write_bundle` wrote.

    Raises:
        ConfigError: it is another program's bundle.
        StorageError: it is damaged.
    """
    try:
        content = json.loads((folder / METADATA).read_text("utf-8"))
        # Tensors only: a pickle from elsewhere could run code.
        state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StorageError(f"{folder}: cannot be read ({type(error).__name__})") from None
    own = content.get("fedward") if isinstance(content, dict) else None
    if not isinstance(own, dict) or not isinstance(state, dict):
        raise ConfigError(f"--model: {folder} is a bundle of another program")
    return model_from_metadata(own, state, place=str(folder))


def bundle_network(bundle_root: str, answer: Answer | None = None) -> nn.Module:
    """Return the network of a bundle, as `configs/inference.json` names it.

    Args:
        bundle_root: its folder.
        answer: of a network of images: which of its outputs; None: masks where it gives them.
    """
    model = read_bundle(Path(bundle_root))
    if model.config.data.image is None:
        return model.network()
    return _image_network(model, answer)


def _image_network(model: TrainedModel, answer: Answer | None = None) -> ImageNetwork:
    return ImageNetwork(model.network(), num_columns=_num_columns(model), answer=answer)


def _for_images(model: TrainedModel, image: ImageConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inference configuration and the data format of a network of images."""
    from fedward.client.bundle_inference import inference_config

    channels = output_channels(_image_network(model), image)
    formats = data_format(model.schema, image, channels)
    if _num_columns(model):
        formats["inputs"] |= _formats(model)["inputs"]
    return inference_config(image, model.schema, next(iter(channels))), formats


def _inference() -> dict[str, Any]:
    return {
        "imports": ["$import pathlib"],
        "bundle_root": ".",
        "device": "cpu",
        "input": "input.csv",
        "output_dir": "$@bundle_root + '/predictions'",
        "network_def": {
            "_target_": "fedward.client.bundle.bundle_network",
            "bundle_root": "@bundle_root",
        },
        "network": "$@network_def.to(@device)",
        "model": {
            "_target_": "fedward.client.bundle.read_bundle",
            "folder": "$pathlib.Path(@bundle_root)",
        },
        "prediction": {
            "_target_": "fedward.client.predict.predict",
            "model": "@model",
            "table": "$pathlib.Path(@input)",
            "out": "$pathlib.Path(@output_dir)",
        },
        "run": ["$@prediction"],
    }


def _metadata(model: TrainedModel, formats: dict[str, Any]) -> dict[str, Any]:
    schema = model.schema
    of_images = model.config.data.image is not None
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "schema": _META_SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported {today} after round {model.round}"},
        "monai_version": version("monai") if of_images else _MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": _required(*(IMAGE_PACKAGES if of_images else ())),
        "python_version": platform.python_version(),
        "name": model.name,
        "task": f"{model.config.task}: {_target(schema)}",
        "description": f"{schema.title or schema.name}: {model.config.model.name}, trained by "
        f"federated learning ({model.config.strategy.name}, {model.round} rounds)",
        "authors": "the sites of the federation",
        "copyright": "as the federation agreed",
        "data_source": schema.source,
        "intended_use": "research; not a medical device",
        "network_data_format": formats,
        "fedward": metadata_of(model),
    }


def _target(schema: TableSchema) -> str:
    """Return what is predicted, in words."""
    structures = schema.image.structures if schema.image else ()
    return ", ".join([*structures, *([schema.label_column] if schema.label_column else [])])


def _required(*packages: str) -> dict[str, str]:
    """Return the versions of fedward and of those of the packages that are installed."""
    found = {"fedward": version("fedward")}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _num_columns(model: TrainedModel) -> int:
    """Return how many encoded columns the fields have; 0 where there are none."""
    fields = model.schema.select(model.config.data.features)
    return layout_of(fields).stops[-1] if fields else 0


def _formats(model: TrainedModel) -> dict[str, Any]:
    """Return `network_data_format` of a network of tables."""
    classes = model.schema.class_names
    return {
        "inputs": {
            "features": {
                "type": "tabular",
                "format": "encoded",
                "num_channels": _num_columns(model),
                "spatial_shape": [],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": _channels(model),
            }
        },
        "outputs": {
            "pred": {
                "type": "logits",
                "format": "classes",
                "num_channels": len(classes),
                "spatial_shape": [],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": {str(i): c for i, c in enumerate(classes)},
            }
        },
    }


def _channels(model: TrainedModel) -> dict[str, str]:
    """Return what each encoded column means."""
    names: list[str] = []
    for field in model.schema.select(model.config.data.features):
        if field.kind == "continuous":
            unit = f" [{field.unit}]" if field.unit else ""
            names += [f"{field.name}{unit}, standardised", f"{field.name} missing"]
        else:
            names += [f"{field.name} = {value}" for value in field.categories]
            names.append(f"{field.name} missing")
    return {str(number): name for number, name in enumerate(names)}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=4, ensure_ascii=False).encode() + b"\n"
