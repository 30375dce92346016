"""The network that takes noise off rows: a plain MLP that knows the step and the class.

Source: Kotelnikov et al. 2023, section 4 (TabDDPM): inputs, time and class embeddings are added,
then come the layers; here it is smaller.
"""

import math

import torch
from torch import Tensor, nn

WIDTH = 128
"""Of the embeddings."""


class Denoiser(nn.Module):
    """Predicts the noise in numbers, and the logits of clean categories.

    Args:
        num_inputs: D, numbers and one-hot categories side by side; also of the output.
        num_classes: of the label; 1 without one.
        hidden: widths of the layers.
    """

    def __init__(self, num_inputs: int, num_classes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.rows = nn.Linear(num_inputs, WIDTH)
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.classes = nn.Embedding(num_classes, WIDTH)
        layers: list[nn.Module] = []
        for width_in, width_out in zip((WIDTH, *hidden), hidden, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(hidden[-1], num_inputs))

    def forward(self, rows_ND: Tensor, step_N: Tensor, class_N: Tensor) -> Tensor:
        """Return (N, D)."""
        known = self.time(_waves(step_N)) + self.classes(class_N)
        found: Tensor = self.body(nn.functional.silu(self.rows(rows_ND) + known))
        return found


def _waves(step_N: Tensor) -> Tensor:
    """Return (N, WIDTH) sines and cosines of the step (Vaswani et al. 2017, section 3.5)."""
    half = WIDTH // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half) / half)
    angle = step_N[:, None].float() * rates
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
