"""Which layers of a network are watched, and how a weight becomes a matrix.

Shapes: P output neurons (rows), Q inputs (columns).
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.monitoring.elements import Matrix, as_matrix
from fedward.common.monitoring.telemetry import MAX_LAYERS
from fedward.common.registry import did_you_mean

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NAMED = 8


@dataclass(frozen=True)
class WatchedLayer:
    """A weight that is watched.

    Args:
        name: of the parameter.
        num_rows: P, output neurons; of a transposed convolution those of one group.
        num_columns: Q, what one output neuron sees.
        is_transposed: a transposed convolution, whose weight has its inputs first.
    """

    name: str
    num_rows: int
    num_columns: int
    is_transposed: bool = False

    def matrix(self, tensor: Tensor) -> Matrix:
        """Return the weight as (P, Q), a float64 copy on the CPU."""
        values = tensor.detach()
        if self.is_transposed:
            values = values.transpose(0, 1)
        return as_matrix(values.to("cpu", torch.float64).numpy())


def watched_layers(model: nn.Module, layers: str | Sequence[str]) -> list[WatchedLayer]:
    """Return the weights that `layers` selects, in the order of the model.

    Args:
        model: biases, norms and what is not trained are no candidates of the two words.
        layers: `penultimate`: the weight between the antepenultimate and penultimate layer, the
            second to last of its linear layers and convolutions (the only one if there is one);
            `all`: every one of them; else shell patterns of parameter names, of which any
            parameter with two or more dimensions may be one.

    Raises:
        ConfigError: the model has no such layer, a pattern matches none, or there are more than
            a report can hold.
    """
    shaped = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim >= 2}
    transposed = _weights(model, _TRANSPOSED)
    if isinstance(layers, str):
        trained = [n for n in _weights(model, _KINDS) if n in shaped and shaped[n].requires_grad]
        if not trained:
            raise ConfigError(
                f"monitor.cme.layers: {layers!r}: the model trains no linear layer and no "
                f"convolution; give patterns of its parameters: {_listed(shaped)}"
            )
        chosen = trained if layers == "all" else trained[-2:][:1]
    else:
        chosen = _matching(list(shaped), layers)
    if len(chosen) > MAX_LAYERS:
        raise ConfigError(
            f"monitor.cme.layers: {len(chosen)} layers would be watched, at most {MAX_LAYERS} can "
            "be; name fewer by patterns"
        )
    return [_watched(name, shaped[name], is_transposed=name in transposed) for name in chosen]


def _weights(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the parameter names of the weights of modules of some kinds, in order."""
    modules = model.named_modules()
    return [f"{name}.weight".lstrip(".") for name, module in modules if isinstance(module, kinds)]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise ConfigError(
                f"monitor.cme.layers: pattern {pattern!r} matches no weight of the model"
                f"{did_you_mean(pattern, names)}; it has {_listed(names)}"
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def _watched(name: str, tensor: Tensor, *, is_transposed: bool) -> WatchedLayer:
    shape = tensor.shape
    num_rows = shape[1] if is_transposed else shape[0]
    num_columns = tensor.numel() // num_rows if num_rows else 0
    return WatchedLayer(name, num_rows, num_columns, is_transposed)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED]) or 'none'}{more}"
