"""A multilayer perceptron over all columns of the table."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import gcd
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.models.layers import LayerNorm, Linear
from fedward.common.models.layout import FieldLayout, num_columns
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.task import Batch

MAX_GROUPS = 8
Widths = Annotated[Sequence[PositiveInt], Field(min_length=1)]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Linear, normalisation, activation and dropout per hidden layer, then a linear head.

    Args:
        hidden: width of each hidden layer.
        dropout: share of the activations that are zeroed in training.
        norm: `layer` and `group` normalise each patient alone. `batch` couples the patients of a
            batch: it is refused under differential privacy, and cannot be trained stacked.
        activation: after each hidden layer.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        layout: FieldLayout,
        num_classes: int,
        *,
        hidden: Widths = (64, 32),
        dropout: Probability = 0.0,
        norm: Literal["none", "layer", "group", "batch"] = "none",
        activation: Literal["relu", "gelu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        widths = [num_columns(layout), *hidden]
        layers: list[nn.Module] = []
        for width_in, width in pairwise(widths):
            layers.append(Linear(width_in, width))
            if norm != "none":
                layers.append(_normalisation(norm, width))
            layers.append(ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.body = nn.Sequential(*layers)
        self.head = Linear(widths[-1], num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C)."""
        logits_BC: Tensor = self.head(self.body(batch["features"]))
        return logits_BC


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that uses its running statistics where a batch has none: B < 2."""

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return `x_BF` normalised per column."""
        if len(x_BF) >= 2:
            return super().forward(x_BF)
        assert self.running_mean is not None
        assert self.running_var is not None
        return functional.batch_norm(
            x_BF, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _normalisation(kind: str, width: int) -> nn.Module:
    if kind == "layer":
        return LayerNorm(width)
    if kind == "group":
        return nn.GroupNorm(gcd(width, MAX_GROUPS), width)
    return BatchNorm(width)
