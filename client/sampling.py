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


class RoundSampler(Sampler, Protocol):
    """A sampler that knows beforehand how many steps a round has."""

    def steps_per_epoch(self, num_patients: int) -> int:
        """Return the number of batches of one pass."""

    def num_steps(self, num_patients: int) -> int:
        """Return the number of batches of one round; 0 if there are no patients."""


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
        indices, lengths = self.all_batches(num_patients, rng)
        batches_per_epoch = self.steps_per_epoch(num_patients)
        for number, batch in enumerate(torch.split(indices, lengths)):
            epoch, place = divmod(number, batches_per_epoch)
            yield IndexBatch(batch, epoch, place == batches_per_epoch - 1)

    def steps_per_epoch(self, num_patients: int) -> int:
        """Return the number of batches of one pass."""
        return -(-num_patients // self.batch_size)

    def num_steps(self, num_patients: int) -> int:
        """Return the number of batches of one round; 0 if there are no patients."""
        per_epoch = self.steps_per_epoch(num_patients)
        if self.epochs is not None:
            return self.epochs * per_epoch
        assert self.steps is not None, "checked in the constructor"
        return self.steps if per_epoch else 0

    def all_batches(self, num_patients: int, rng: torch.Generator) -> tuple[Tensor, list[int]]:
        """Return the indices of all batches end to end, and the batches' lengths."""
        if num_patients == 0:
            return torch.zeros(0, dtype=torch.int64), []
        num_full, remainder = divmod(num_patients, self.batch_size)
        epoch = [self.batch_size] * num_full + [remainder] * (remainder > 0)
        if self.epochs is not None:
            num_epochs, num_steps = self.epochs, self.epochs * len(epoch)
        else:
            assert self.steps is not None, "checked in the constructor"
            num_epochs, num_steps = -(-self.steps // len(epoch)), self.steps
        orders = [torch.randperm(num_patients, generator=rng) for _ in range(num_epochs)]
        lengths = (epoch * num_epochs)[:num_steps]
        indices = orders[0] if num_epochs == 1 else torch.cat(orders)
        if num_steps < len(epoch) * num_epochs:
            indices = indices[: sum(lengths)]
        return indices, lengths
