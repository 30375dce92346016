"""Low-rank adapters: a frozen network learns through small matrices beside its layers (LoRA).

A layer with weight W (out, in) answers W x + scale B (A x) instead, with A (rank, in) drawn at
random and B (out, rank) of zeros, so that the network is at first the one that it was. Only A and B
are trained and travel. Convolutions: A is one with the layer's own kernel and `rank` channels, B
one of size 1.

Averaging is a trap: the mean of the A of all sites times the mean of the B is not the mean of the
products. `ab` averages them all the same, which is close while sites have not drifted apart; `ffa`
freezes A, which all sites have in common, so that averaging is exact; `svd` averages the products
at the server and takes the best A and B of the rank (`fedward.server.low_rank`).

Source: Hu et al. 2021, arXiv:2106.09685; `ffa`: Sun et al. 2024, FFA-LoRA, arXiv:2403.12313; rank 4
and scale 1: LoRASAM (ICPR 2024, LNCS 15312). `peft` wraps transformers and brings them along; here
any network with linear layers or convolutions is adapted.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedward.common.config.low_rank import LowRankConfig
from fedward.common.errors import ConfigError
from fedward.common.patterns import matching

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
A, B = "lora_a", "lora_b"
"""Names of the two parts in an adapted layer."""


class Adapted(nn.Module):
    """A frozen layer with an adapter beside it.

    Args:
        base: a linear layer, or a convolution in one group.
        rank: of the adapter.
        scale: what its answer is multiplied by.
        device: of the adapter's weights.
    """

    def __init__(self, base: Any, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        like = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        if isinstance(base, nn.Linear):
            self.lora_a: nn.Module = nn.Linear(base.in_features, rank, **like)
            self.lora_b: nn.Module = nn.Linear(rank, base.out_features, **like)
        else:
            form = {name: getattr(base, name) for name in ("stride", "padding", "dilation")}
            form["padding_mode"] = base.padding_mode
            kind = type(base)
            self.lora_a = kind(base.in_channels, rank, base.kernel_size, **form, **like)
            self.lora_b = kind(rank, base.out_channels, 1, **like)
        nn.init.zeros_(self.lora_b.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer answers, adapted."""
        answer: Tensor = self.base(x) + self.scale * self.lora_b(self.lora_a(x))
        return answer

    @property
    def weight(self) -> Tensor:
        """The layer's weight with the adapter in it, for those who look at it from outside."""
        weight: Tensor = self.base.weight
        return weight + self.scale * product(self.lora_a.weight, self.lora_b.weight)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        bias: Tensor | None = self.base.bias
        return bias


def product(a: Any, b: Any) -> Tensor:
    """Return B A as a weight of the layer: (out, in), or (out, in, kernel ...).

    Args:
        a: (rank, in, kernel ...).
        b: (out, rank, 1 ...).
    """
    whole: Tensor = (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])
    return whole


def adapt(model: nn.Module, config: LowRankConfig) -> nn.Module:
    """Return the model with adapters at the layers that the configuration names; it is changed.

    All weights are frozen but those of the adapters and of `config.also`. The adapters' A are drawn
    from torch's generator, which the caller seeds.

    Args:
        model: with the weights to start from.
        config: rank, scale, which layers.

    Raises:
        ConfigError: a pattern names no layer or tensor, or nothing can be adapted.
    """
    layers = {name: part for name, part in model.named_modules() if _can_be_adapted(part)}
    chosen = matching(config.layers, layers, key="model.lora.layers", what="layer")
    also = matching(
        config.also, dict(model.named_parameters()), key="model.lora.also", what="weight"
    )
    inside = [name for name in also if name.rpartition(".")[0] in chosen]
    if inside:
        raise ConfigError(
            f"model.lora.also: {inside[0]} is in a layer that gets an adapter; leave it out of "
            "also, or the layer out of layers"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in also)
    for name in chosen:
        parent, _, own = name.rpartition(".")
        adapted = Adapted(layers[name], config.rank, config.scale)
        setattr(model.get_submodule(parent), own, adapted)
        if config.aggregation == "ffa":
            adapted.lora_a.requires_grad_(requires_grad=False)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Return the model with every adapter folded into its layer: W + scale B A; it is changed.

    Its `state_dict` has the names that it had before `adapt`.
    """
    for name, part in list(model.named_modules()):
        if isinstance(part, Adapted):
            merged = part.weight.detach()
            with torch.no_grad():
                part.base.weight.copy_(merged)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, part.base)
    return model.requires_grad_(requires_grad=True)


def adapter_pairs(names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the names of the A and the B of each adapter among names of tensors."""
    for name in names:
        if name.endswith(f"{A}.weight"):
            yield name, name.removesuffix(f"{A}.weight") + f"{B}.weight"


def base_hash(model: nn.Module) -> str:
    """Return SHA-256 over all that is frozen, to which the adapters belong."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return state_hash({k: v for k, v in model.state_dict().items() if k not in trained})


def check_base(model: nn.Module, config: LowRankConfig) -> None:
    """Return if the adapters that are asked for belong to this network.

    Raises:
        ConfigError: they belong to another.
    """
    if config.base is not None and state_hash(model.state_dict()) != config.base:
        raise ConfigError(
            f"model.lora.base: the adapters belong to weights with SHA-256 {config.base[:12]}..., "
            "and these are others; start from the file that the run was asked for with"
        )


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Return SHA-256 over names, shapes and values of tensors."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def initial_length() -> float:
    """Return the length of a row of A as it is drawn, on average: uniform in +-1/sqrt(in)."""
    return 1.0 / math.sqrt(3.0)


def _can_be_adapted(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, _CONVOLUTIONS) and part.groups == 1)
