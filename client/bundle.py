"""A trained model as a MONAI bundle: the folder that MONAI's tools and model zoo expect.

    configs/metadata.json    what it is, what goes in and what comes out
    configs/inference.json   how to build it: `python -m monai.bundle` reads it
    models/model.pt          the `state_dict`

The network is fedward's, so that predicting from a bundle needs fedward installed beside MONAI.
Written without MONAI.
"""

import datetime
import io
import json
import pickle
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedward.client.model_file import (
    TrainedModel,
    metadata_of,
    model_from_metadata,
)
from fedward.common.errors import ConfigError, StorageError
from fedward.common.keys import write_private
from fedward.common.tables.encode import layout_of

METADATA = Path("configs") / "metadata.json"
INFERENCE = Path("configs") / "inference.json"
WEIGHTS = Path("models") / "model.pt"
_MONAI = "1.4.0"
"""The oldest version whose bundle format this is."""
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
    weights = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in model.state.items()}, weights)
    write_private(folder / WEIGHTS, weights.getvalue())
    write_private(folder / INFERENCE, _json(_inference()))
    write_private(folder / METADATA, _json(_metadata(model)))
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


def bundle_network(bundle_root: str) -> nn.Module:
    """Return the network of a bundle, as `configs/inference.json` names it."""
    return read_bundle(Path(bundle_root)).network()


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


def _metadata(model: TrainedModel) -> dict[str, Any]:
    schema = model.schema
    fields = schema.select(model.config.data.features)
    num_columns = layout_of(fields).stops[-1]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "schema": _META_SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported {today} after round {model.round}"},
        "monai_version": _MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"fedward": version("fedward")},
        "python_version": platform.python_version(),
        "name": model.name,
        "task": f"{model.config.task}: {schema.label_column}",
        "description": f"{schema.title or schema.name}: {model.config.model.name}, trained by "
        f"federated learning ({model.config.strategy.name}, {model.round} rounds)",
        "authors": "the sites of the federation",
        "copyright": "as the federation agreed",
        "data_source": schema.source,
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {
                "features": {
                    "type": "tabular",
                    "format": "encoded",
                    "num_channels": num_columns,
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
                    "num_channels": schema.num_classes,
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): c for i, c in enumerate(schema.class_names)},
                }
            },
        },
        "fedward": metadata_of(model),
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
