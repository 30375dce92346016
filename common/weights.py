"""Models as `.safetensors` files, and the weights of MONAI bundles to start from.

A file of our own holds every tensor of the `state_dict` by name, and has to fit. A bundle is
another program's: what fits is taken, and what does not is reported.
"""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.origin import Origin

BUNDLE_WEIGHTS = Path("models") / "model.pt"
_NAMED = 5
_WRAPPED = ("state_dict", "model", "network", "net")
"""Under which key checkpoints of training frameworks hold the `state_dict`."""
_log = logging.getLogger("fedward.weights")


@dataclass(frozen=True)
class Fit:
    """How far the weights of a bundle fitted a model."""

    place: str
    num_loaded: int
    """Tensors that were taken over."""
    missing: tuple[str, ...] = ()
    """Tensors of the model that the bundle has not: as initialised at random."""
    misshapen: tuple[str, ...] = ()
    """Tensors of the model that have another shape in the bundle: as initialised, too."""
    unused: tuple[str, ...] = ()
    """Tensors of the bundle that the model has not."""

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the model was taken over."""
        return not self.missing and not self.misshapen

    def __str__(self) -> str:
        """Return what to tell the user."""
        total = self.num_loaded + len(self.missing) + len(self.misshapen)
        told = [f"model.init: {self.num_loaded} of {total} tensors come from {self.place}"]
        kinds = {
            "not in it": self.missing,
            "of another shape in it": self.misshapen,
            "in it but not in the model": self.unused,
        }
        told += [f"{_listed(names)} {what}" for what, names in kinds.items() if names]
        return "; ".join(told)


def save_weights(model: nn.Module, path: Path, origin: Origin | None = None) -> None:
    """Write all tensors of `model` to a `.safetensors` file.

    Args:
        model: trained, or not.
        path: of the file.
        origin: which runs trained it; None: the file says nothing of it.
    """
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, metadata=None if origin is None else origin.header())


def load_weights(model: nn.Module, path: Path) -> Fit:
    """Overwrite the tensors of `model`, and return how far they fitted.

    Args:
        model: the network.
        path: a `.safetensors` file of the whole model; or the folder of a MONAI bundle, of which
            all tensors are taken that fit. Those that do not are logged as a warning.

    Raises:
        ConfigError: there is no such file, or it belongs to another model.
    """
    if path.is_dir():
        fit = _take(model, _renamed(model, _bundle_state(path)), place=str(path))
        if not fit.is_whole:
            _log.warning("%s", fit)
        return fit
    try:
        state = load_file(path)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise ConfigError(
            f"model.init: there is no file {path}; expected a .safetensors file, or the folder of "
            "a MONAI bundle"
        ) from error
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"model.init: {path} does not fit the model: {error}") from error
    return Fit(str(path), len(state))


def _bundle_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in a bundle, by their plain names."""
    path = folder / BUNDLE_WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"model.init: {folder} is no MONAI bundle: it has no {BUNDLE_WEIGHTS.as_posix()}"
        )
    try:
        # Tensors only: a pickle from elsewhere could run code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"model.init: {path} cannot be read as tensors only ({type(error).__name__}); save "
            "the `state_dict` of the network with torch.save"
        ) from None
    state = _unwrapped(content)
    if not state:
        raise ConfigError(f"model.init: {path} holds no tensors by name")
    return state


def _unwrapped(content: Any) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(n): value for n, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            # DataParallel and torch.compile put a name of their own before each.
            for wrapper in ("module.", "_orig_mod."):
                if all(name.startswith(wrapper) for name in tensors):
                    tensors = {n.removeprefix(wrapper): value for n, value in tensors.items()}
            return tensors
        content = next((content[key] for key in _WRAPPED if key in content), None)
    return {}


def _renamed(model: nn.Module, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors with the names that the model's parts have here.

    A network that takes MONAI's apart says in `monai_names` which part became which.
    """
    ours: Mapping[str, str] = getattr(model, "monai_names", {})
    named = {}
    for name, tensor in given.items():
        part = next((part for part in ours if name.startswith(f"{part}.")), None)
        new = name if part is None else ours[part] + name.removeprefix(part)
        named[new] = tensor
    return named


def _take(model: nn.Module, given: Mapping[str, Tensor], *, place: str) -> Fit:
    """Overwrite the tensors that fit, of the model or of the one part of it that fits best.

    Our networks keep one of MONAI's as a part of them: its tensors have a prefix here.
    """
    own = model.state_dict()
    prefixes = ["", *(f"{name}." for name, _ in model.named_modules() if name)]
    prefix = max(prefixes, key=lambda prefix: _num_values(_fitting(own, given, prefix)))
    fitting = _fitting(own, given, prefix)
    if not any(tensor.ndim >= 2 for tensor in fitting.values()):
        # Shapes of biases and norms agree by chance.
        raise ConfigError(
            f"model.init: no weight in {place} has a name and shape of this model; it belongs to "
            "another network, or to other keys of `model`"
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    renamed = {prefix + name for name in given}
    others = [name for name in own if name not in fitting]
    return Fit(
        place,
        len(fitting),
        missing=tuple(name for name in others if name not in renamed),
        misshapen=tuple(name for name in others if name in renamed),
        unused=tuple(name for name in given if prefix + name not in own),
    )


def _fitting(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Return the given tensors that have name and shape of the model's, by the model's names."""
    named = {prefix + name: tensor for name, tensor in given.items()}
    return {n: t for n, t in named.items() if n in own and t.shape == own[n].shape}


def _num_values(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
