"""The steps of many sites at once, as one padded index per step.

Each site draws its own batches from its own generator, exactly as when it is trained alone. The
sites are put in order of falling number of steps, so that those still busy at step t are the
first k of them, and the rows of all sites lie end to end, so that a step's data are one gather.

Shapes: S sites, k busy sites, B rows of the largest batch of the step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedward.client.sampling import Sampler
from fedward.common.task import Batch, PatientDataset

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class StackedBatch:
    """The rows of one step of the first k sites.

    Args:
        rows: the batch of every site, one after the other: (k * B, ...).
        weight_kB: 1 / (rows of the site's batch), and 0 on padding.
        num_rows_k: rows of each site's batch, as float64.
    """

    rows: Batch
    weight_kB: Tensor
    num_rows_k: Tensor


@dataclass(frozen=True, repr=False)
class Schedule:
    """All steps of a round of S sites.

    Args:
        order: (S,) position of each scheduled site among the given ones.
        num_steps: (S,) steps of each, falling.
        rows: the rows of all sites, end to end.
    """

    order: Ints
    num_steps: Ints
    rows: Mapping[str, Tensor]
    _index: Tensor
    _weight: Tensor
    _num_rows: Tensor
    _shapes: Sequence[tuple[int, int]]

    def __iter__(self) -> Iterator[StackedBatch]:
        """Yield the steps."""
        padded = real = 0
        for k, size in self._shapes:
            index = self._index[padded : padded + k * size]
            yield StackedBatch(
                {key: column.index_select(0, index) for key, column in self.rows.items()},
                self._weight[padded : padded + k * size].view(k, size),
                self._num_rows[real : real + k],
            )
            padded += k * size
            real += k


def make_schedule(
    datasets: Sequence[PatientDataset], sampler: Sampler, rngs: Sequence[torch.Generator]
) -> Schedule:
    """Return the steps of all sites.

    Args:
        datasets: of each site, with the same keys, on one device.
        sampler: draws each site's batches. Batches without rows are dropped, as `PlainStep` does.
        rngs: of each site.
    """
    drawn = [_row_batches(data, sampler, rng) for data, rng in zip(datasets, rngs, strict=True)]
    num_steps = np.array([len(batches) for batches in drawn], dtype=np.int64)
    order = np.argsort(-num_steps, kind="stable")
    # Of each batch, site after site: its step, its site's rank, and its number of rows.
    step = np.concatenate([np.arange(len(drawn[site])) for site in order])
    rank = np.repeat(np.arange(len(order)), num_steps[order])
    batches = [batch for site in order for batch in drawn[site]]
    length = np.array([len(batch) for batch in batches], dtype=np.int64)
    k_T = np.bincount(step)
    size_T = np.zeros_like(k_T)
    np.maximum.at(size_T, step, length)

    offsets = _offsets(datasets)
    first_site_row = np.repeat(offsets[order], num_steps[order])
    start = np.concatenate([[0], np.cumsum(k_T * size_T)])[step] + rank * size_T[step]
    rows = _cat(batches) + np.repeat(first_site_row, length)
    place = np.repeat(start, length) + _ramps(length)
    # Padding repeats a row of the batch itself: it cannot bring in a value that is not finite.
    by_step = np.lexsort((rank, step))
    index = np.repeat(rows[(np.cumsum(length) - length)[by_step]], size_T[step[by_step]])
    index[place] = rows
    weight = np.zeros(len(index), dtype=np.float32)
    weight[place] = np.repeat(1 / length, length)
    device = datasets[0].rows["patient_id"].device
    return Schedule(
        order=order,
        num_steps=num_steps[order],
        rows={key: torch.cat([d.rows[key] for d in datasets]) for key in datasets[0].rows},
        _index=torch.from_numpy(index).to(device),
        _weight=torch.from_numpy(weight).to(device),
        _num_rows=torch.from_numpy(length[by_step].astype(np.float64)).to(device),
        _shapes=list(zip(k_T.tolist(), size_T.tolist(), strict=True)),
    )


def _row_batches(data: PatientDataset, sampler: Sampler, rng: torch.Generator) -> list[Tensor]:
    batches = [data.row_index(batch.indices) for batch in sampler(len(data), rng)]
    return [batch for batch in batches if len(batch)]


def _offsets(datasets: Sequence[PatientDataset]) -> Ints:
    """Return (S,) where the rows of each site start when all lie end to end."""
    lengths = [len(data.rows["patient_id"]) for data in datasets]
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _cat(batches: Sequence[Tensor]) -> Ints:
    return torch.cat(list(batches)).numpy() if batches else np.zeros(0, dtype=np.int64)


def _ramps(lengths: Ints) -> Ints:
    """Return 0 .. n - 1 for each n of `lengths`, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
