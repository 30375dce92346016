"""Which tensors of a model are shared, and their one wire form: a flat float32 vector.

`shared:` name patterns select floating-point entries of the model's `state_dict`. The same
`ParameterSet` is used by sender, validator, strategy and checkpoint. FedBN, a shared head and
adapters are configurations of it. Integer buffers (BatchNorm's counters) never travel.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.patterns import matching
from fedward.common.vectors import Vector


@dataclass(frozen=True)
class ParameterSet:
    """Names and shapes of the shared tensors, in the order of the wire vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    base: str = ""
    """Hash of what is frozen beside them, where they mean nothing without it."""
    frozen: tuple[str, ...] = field(default=(), compare=False)
    """Those of `names` that no site trains. They travel, as a site may not have their values."""

    @classmethod
    def of(cls, model: nn.Module, patterns: Sequence[str] = ("*",)) -> Self:
        """Return the set of tensors of `model` that `patterns` select.

        Args:
            model: its floating-point `state_dict` entries are candidates.
            patterns: shell patterns, read left to right; a leading `!` takes names out again.
                An empty sequence shares nothing.

        Raises:
            ConfigError: a pattern matches no tensor.
        """
        state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        names = matching(patterns, state, key="shared", what="tensor")
        untrained = {name for name, p in model.named_parameters() if not p.requires_grad}
        frozen = tuple(name for name in names if name in untrained)
        return cls(names, tuple(tuple(state[name].shape) for name in names), frozen=frozen)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of scalars of each tensor."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Length of the wire vector."""
        return sum(self.sizes)

    @cached_property
    def frozen_values(self) -> NDArray[np.bool_] | None:
        """Which values of the wire vector are frozen, (size,); None: all of them are trained."""
        if not self.frozen:
            return None
        return np.repeat([name in self.frozen for name in self.names], self.sizes)

    @property
    def num_trained(self) -> int:
        """Number of scalars that are not frozen."""
        return self.size - (0 if self.frozen_values is None else int(self.frozen_values.sum()))

    @cached_property
    def manifest_hash(self) -> str:
        """SHA-256 over names, shapes, dtype and base: only equal ones may be averaged."""
        manifest = json.dumps([self.names, self.shapes, "float32", *[self.base] * bool(self.base)])
        return hashlib.sha256(manifest.encode()).hexdigest()

    def flatten(self, state: Mapping[str, Tensor]) -> Vector:
        """Return the (size,) float32 wire vector of `state`, as a copy."""
        if not self.names:
            return np.zeros(0, dtype=np.float32)
        parts = [state[name].detach().reshape(-1) for name in self.names]
        vector: Vector = torch.cat(parts).to("cpu", torch.float32).numpy()
        return vector

    def unflatten(self, vector: Vector) -> dict[str, Tensor]:
        """Return the named tensors of a (size,) vector, as copies that may be trained in place."""
        flat = torch.from_numpy(vector.copy())
        pieces = flat.split(self.sizes) if self.names else ()
        return {
            name: piece.view(shape)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }

    def load(self, model: nn.Module, vector: Vector) -> None:
        """Copy a (size,) vector into `model`, leaving what is not shared alone."""
        state = model.state_dict()
        with torch.no_grad():
            for name, tensor in self.unflatten(vector).items():
                state[name].copy_(tensor)


def normalisation_names(model: nn.Module) -> tuple[str, ...]:
    """Return the `state_dict` names that belong to normalisation layers (FedBN keeps them local).

    Source: Li et al. 2021, FedBN, arXiv:2102.07623.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
    layers = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    return tuple(key for key in model.state_dict() if key.rpartition(".")[0] in layers)


def shared_set(model: nn.Module, patterns: Sequence[str], *, strategy: str) -> ParameterSet:
    """Return what the sites share: `patterns`, less the normalisation layers under FedBN.

    Raises:
        ConfigError: a pattern matches nothing, or FedBN finds no normalisation layer.
    """
    if strategy == "fedbn":
        local = normalisation_names(model)
        if not local:
            raise ConfigError(
                "strategy.name: fedbn keeps normalisation layers at the site, but the model has "
                "none; choose one that has (such as `model.norm: layer`), or fedavg"
            )
        floating = [name for name in local if model.state_dict()[name].is_floating_point()]
        patterns = (*patterns, *(f"!{name}" for name in floating))
    return ParameterSet.of(model, patterns)
