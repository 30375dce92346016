"""Linear and normalisation layers whose weights may be those of one site or of K sites at once.

With weights of K sites, (K, ...) instead of (...), the input is (K, B, ...) and sample [k, b] meets
the weights of site k. A model is *stackable* if it consists of these and of elementwise layers,
and if its forward counts dimensions from the last. `torch.func.vmap` gives the same numbers for
any model, but its bookkeeping takes as long again as the small kernels that it launches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """`nn.Linear`, with weights of one site or stacked."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b: (..., in) to (..., out); stacked (K, ..., in) to (K, ..., out)."""
        if self.weight.dim() == 2:
            return functional.linear(x, self.weight, self.bias)
        rows_KBi, weight_Kio = x.flatten(1, -2), self.weight.transpose(1, 2)
        if self.bias is None:
            out_KBo = torch.bmm(rows_KBi, weight_Kio)
        else:
            out_KBo = torch.baddbmm(self.bias.unsqueeze(1), rows_KBi, weight_Kio)
        return out_KBo.view(*x.shape[:-1], self.out_features)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last dimension, with weights of one site or stacked."""

    def __init__(self, width: int) -> None:
        super().__init__(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with mean 0 and variance 1 over its last dimension, scaled and shifted."""
        if self.weight.dim() == 1:
            return super().forward(x)
        normal = functional.layer_norm(x, self.normalized_shape, eps=self.eps)
        shape = (len(x), *(1,) * (x.dim() - 2), x.shape[-1])
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))
