"""Logistic regression over all columns of the table."""

from torch import Tensor, nn

from fedward.common.models.layers import Linear
from fedward.common.models.layout import FieldLayout, num_columns
from fedward.common.task import Batch


class LogisticRegression(nn.Module):
    """One linear layer: multinomial logistic regression, C logits for C classes."""

    def __init__(self, layout: FieldLayout, num_classes: int) -> None:
        super().__init__()
        self.linear = Linear(num_columns(layout), num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C)."""
        logits_BC: Tensor = self.linear(batch["features"])
        return logits_BC
