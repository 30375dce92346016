"""Which patients make up each step of local training."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class IndexBatch(NamedTuple):
    """The patients of one step.

    Args:
        indices: (B,) int64 positions of patients; B = 0 is legal.
        epoch: number of the pass over the patients, from 0.
        is_last_of_epoch: whether the pass ends with this batch.
    """

    indices: Tensor
    epoch: int
    is_last_of_epoch: bool


class Sampler(Protocol):
    """Draws the batches of one round of one site."""

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        """Yield the batches. All randomness comes from `rng`."""


class ShuffleSampler:
    """Every patient once per pass, in a fresh order; the last batch of a pass may be smaller.

    Args:
        batch_size: patients per step, >= 1.
        epochs: number of passes, or
        steps: number of batches, over as many passes as that takes.
    """

    def __init__(
        self, batch_size: int, *, epochs: int | None = None, steps: int | None = None
    ) -> None:
        if (epochs is None) == (steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        self.batch_size = batch_size
        self.epochs = epochs
        self.steps = steps

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        """Yield the batches; none if there are no patients."""
        if num_patients == 0:
            return
        batches_per_epoch = -(-num_patients // self.batch_size)
        total = self.steps if self.epochs is None else self.epochs * batches_per_epoch
        assert total is not None, "checked in the constructor"
        for epoch in range(-(-total // batches_per_epoch)):
            order = torch.randperm(num_patients, generator=rng)
            batches = torch.split(order, self.batch_size)[: total - epoch * batches_per_epoch]
            for number, indices in enumerate(batches, start=1):
                yield IndexBatch(indices, epoch, number == batches_per_epoch)
