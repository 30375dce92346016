"""How much memory a pass through a network takes, measured on one row before many are tried."""

import torch
from torch import Tensor, nn

from fedward.common.task import Batch


def activation_bytes(model: nn.Module, batch: Batch) -> int:
    """Return the bytes that one forward pass keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in weights:
            kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(batch)
    return kept
