"""How patients are drawn for private training: each one by a coin of its own, at every step.

Privacy is amplified by sampling only as far as the accountant's picture of it is true. Passes in
shuffled order, accounted as if they were Poisson, understate epsilon (Chua et al. 2024,
arXiv:2403.17673).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedward.client.sampling import IndexBatch
from fedward.common.privacy.noise import NoiseSource
from fedward.common.task import PatientDataset


@dataclass(frozen=True)
class PoissonSampler:
    """Draws every patient with probability `batch_size / patients` at every step, independently.

    A batch may be empty: it is a step all the same, and is accounted as one.

    Args:
        batch_size: patients per step on average, >= 1.
        epochs: passes over as many patients as there are, on average; or
        steps: number of steps.
        secret: draws the coins in a deployment; None: the round's `rng`, which has a seed.
    """

    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    secret: NoiseSource | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")

    def __call__(self, num_patients: int, rng: torch.Generator) -> Iterator[IndexBatch]:
        """Yield the batches, the empty ones too; none if there are no patients."""
        rate, per_epoch = self.rate(num_patients), self.steps_per_epoch(num_patients)
        for number in range(self.num_steps(num_patients)):
            epoch, place = divmod(number, per_epoch)
            drawn = self._coins(num_patients, rng) < rate
            yield IndexBatch(drawn.nonzero().squeeze(1), epoch, place == per_epoch - 1)

    def rate(self, num_patients: int) -> float:
        """Return q, the probability that a patient is in a batch; 1 for sites that are smaller."""
        return min(1.0, self.batch_size / max(1, num_patients))

    def steps_per_epoch(self, num_patients: int) -> int:
        """Return the steps after which so many patients have been drawn, on average."""
        return -(-num_patients // self.batch_size)

    def num_steps(self, num_patients: int) -> int:
        """Return the steps of one round; 0 if there are no patients."""
        per_epoch = self.steps_per_epoch(num_patients)
        if self.epochs is not None:
            return self.epochs * per_epoch
        assert self.steps is not None, "checked when it was made"
        return self.steps if per_epoch else 0

    def _coins(self, num_patients: int, rng: torch.Generator) -> Tensor:
        """Return (N,) float64 from 0 to below 1: 24 bits would shift a small rate."""
        if self.secret is not None:
            return self.secret.uniforms(num_patients)
        return torch.rand(num_patients, generator=rng, dtype=torch.float64)


def capped(data: PatientDataset, most: int, rng: torch.Generator) -> PatientDataset:
    """Return the data with at most `most` rows of each patient, drawn without replacement.

    It bounds what a patient costs in time and memory. Privacy does not need it: a patient's
    gradient is clipped as one, however many rows it comes from.

    Args:
        data: in which those of a patient stand next to each other.
        most: >= 1.
        rng: which rows are kept.
    """
    if data.starts is None:
        return data
    num_rows = data.starts.diff()
    if not len(num_rows) or int(num_rows.max()) <= most:
        return data
    kept = [
        begin + torch.randperm(count, generator=rng)[:most].sort().values
        for begin, count in zip(data.starts.tolist(), num_rows.tolist(), strict=False)
    ]
    index = torch.cat(kept)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), num_rows.clamp(max=most).cumsum(0)])
    device = data.rows["patient_id"].device
    rows = {key: column.index_select(0, index.to(device)) for key, column in data.rows.items()}
    return PatientDataset(rows, starts)
