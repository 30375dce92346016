"""Private training written the plain way, for the tests to compare with: one patient at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedward.common.task import Batch, Loss

SLACK = 1e-6  # of Opacus 1.6, in C / (norm + 1e-6)


@dataclass(frozen=True)
class Plain:
    """The gradients of a batch's patients, flat, in rising order of their ids."""

    flat_GP: Tensor
    loss_G: Tensor

    def clipped_sum(self, max_norm: float) -> Tensor:
        total = torch.zeros_like(self.flat_GP[0])
        for flat_P in self.flat_GP:
            total += flat_P * min(1.0, max_norm / (float(flat_P.norm()) + SLACK))
        return total


def plain_gradients(model: nn.Module, loss_per_sample: Loss, batch: Batch) -> Plain:
    """Return each patient's gradient by an ordinary backward pass over its rows alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients, losses = [], []
    for patient in batch["patient_id"].unique():
        rows = {name: column[batch["patient_id"] == patient] for name, column in batch.items()}
        loss = loss_per_sample(model(rows), rows).mean()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        gradients.append(flat(found))
        losses.append(loss.detach())
    return Plain(torch.stack(gradients), torch.stack(losses))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def weights(model: nn.Module) -> Tensor:
    return flat([p.detach() for p in model.parameters() if p.requires_grad])


def in_float64(model: nn.Module, batch: Batch) -> tuple[nn.Module, Batch]:
    """Return both in double precision, in which nothing small can hide."""
    doubled = {
        name: column.double() if column.is_floating_point() else column
        for name, column in batch.items()
    }
    return model.double(), doubled
