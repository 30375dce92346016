"""Models as `.safetensors` files: every tensor of the `state_dict` by name."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fedward.common.errors import ConfigError


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all tensors of `model` to a `.safetensors` file."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Overwrite the tensors of `model` with those of a `.safetensors` file.

    Raises:
        ConfigError: there is no such file, or it belongs to another model.
    """
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise ConfigError(f"model.init: there is no file {path}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"model.init: {path} does not fit the model: {error}") from error
