"""The steps of many sites at once, as one padded index per step.

The sites come in the order of falling number of steps, so that those still busy at a step are the
first K of them; the rows of all sites lie end to end, so that a step's data are one gather.

Shapes: S sites, K busy sites, B rows of the largest batch of the step, M batches of all sites.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedward.client.sampling import Sampler, ShuffleSampler
from fedward.common.task import Batch, PatientDataset

Ints = npt.NDArray[np.int64]


class Drawn(NamedTuple):
    """The batches of one site: their rows, end to end, and their lengths."""

    rows: Tensor
    lengths: list[int]


def draw(
    data: PatientDataset, sampler: Sampler, rng: torch.Generator, *, keep_empty: bool = False
) -> Drawn:
    """Return the rows of a site's steps.

    Args:
        data: the site's patients.
        sampler: draws the batches.
        rng: of the sampler.
        keep_empty: whether a batch without rows is a step, as a private one is.
    """
    if isinstance(sampler, ShuffleSampler) and data.starts is None:
        return Drawn(*sampler.all_batches(len(data), rng))  # saves a hundred sites 1 ms
    drawn = [data.row_index(batch.indices) for batch in sampler(len(data), rng)]
    batches = [batch for batch in drawn if keep_empty or batch.numel()]
    rows = torch.cat(batches) if batches else torch.zeros(0, dtype=torch.int64)
    return Drawn(rows, [batch.numel() for batch in batches])


@dataclass(frozen=True, repr=False)
class StackedBatch:
    """The rows of one step of the first K sites.

    Args:
        rows: the batch of every site, one after the other: (K * B, ...).
        weight_KB: 1 / (rows of the site's batch), and 0 on padding.
        num_rows_K: rows of each site's batch, as float64.
        owner_R: (K * B,) int64, a number for the patient of each row, of its own on padding; None
            where every patient of every site has one row.
    """

    rows: Batch
    weight_KB: Tensor
    num_rows_K: Tensor
    owner_R: Tensor | None = None


class Schedule:
    """All steps of S sites.

    Args:
        datasets: of each site, with the same keys, on one device.
        drawn: the batches of each site, in falling order of their number.
    """

    def __init__(self, datasets: Sequence[PatientDataset], drawn: Sequence[Drawn]) -> None:
        plan = _Plan(drawn)
        keys = datasets[0].rows
        device = datasets[0].rows["patient_id"].device
        self._rows = {key: torch.cat([data.rows[key] for data in datasets]) for key in keys}
        offset_S = _starts(np.array([len(data.rows["patient_id"]) for data in datasets]))
        self._index = torch.from_numpy(plan.index(offset_S)).to(device)
        self._weight = torch.from_numpy(plan.weight()).to(device)
        self._num_rows = torch.from_numpy(plan.num_rows_by_step()).to(device)
        self._shapes = plan.shapes()
        owner = _owners(datasets)
        self._owner = None if owner is None else owner.to(device)

    def __iter__(self) -> Iterator[StackedBatch]:
        """Yield the steps."""
        place = batch = 0
        for k, size in self._shapes:
            here = slice(place, place + k * size)
            index, weight = self._index[here], self._weight[here]
            yield StackedBatch(
                {key: column.index_select(0, index) for key, column in self._rows.items()},
                weight.view(k, size),
                self._num_rows[batch : batch + k],
                self._owners_of(index, weight),
            )
            place += k * size
            batch += k

    def _owners_of(self, index: Tensor, weight: Tensor) -> Tensor | None:
        if self._owner is None:
            return None
        nobody = -1 - torch.arange(len(index), device=index.device)
        return torch.where(weight > 0, self._owner[index], nobody)


class _Plan:
    """Where each row of each batch goes. All loops over batches are numpy's."""

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        num_steps_S = np.array([len(site.lengths) for site in drawn])
        self.site_M: Ints = np.repeat(np.arange(len(drawn)), num_steps_S)
        self.step_M = _ramps(num_steps_S)
        lengths = list(chain.from_iterable(site.lengths for site in drawn))
        self.length_M: Ints = np.array(lengths, dtype=np.int64)
        self.rows: Ints = torch.cat([site.rows for site in drawn]).numpy()
        self.num_busy_T: Ints = np.bincount(self.step_M)
        self.size_T: Ints = np.zeros_like(self.num_busy_T)
        np.maximum.at(self.size_T, self.step_M, np.maximum(self.length_M, 1))
        width_M = self.size_T[self.step_M]
        start_M = _starts(self.num_busy_T * self.size_T)[self.step_M] + self.site_M * width_M
        self.place: Ints = np.repeat(start_M, self.length_M) + _ramps(self.length_M)
        self.by_step_M: Ints = np.argsort(self.step_M, kind="stable")

    def index(self, offset_S: Ints) -> Ints:
        """Return the rows of step 0, then of step 1 ..., each (K, B), flat."""
        rows = self.rows + np.repeat(offset_S[self.site_M], self.length_M)
        # Padding repeats a row of the batch itself, so it brings in nothing that is not finite; of
        # the site, where the batch has none.
        first_M = offset_S[self.site_M]
        has_rows_M = self.length_M > 0
        first_M[has_rows_M] = rows[_starts(self.length_M)[has_rows_M]]
        index = np.repeat(first_M[self.by_step_M], self.size_T[self.step_M[self.by_step_M]])
        index[self.place] = rows
        return index

    def weight(self) -> npt.NDArray[np.float32]:
        """Return 1 / (rows of the batch) for each place, 0 for padding."""
        weight = np.zeros(int((self.num_busy_T * self.size_T).sum()), dtype=np.float32)
        weight[self.place] = np.repeat(1 / np.maximum(self.length_M, 1), self.length_M)
        return weight

    def num_rows_by_step(self) -> npt.NDArray[np.float64]:
        """Return the rows of the batches of step 0, then of step 1 ..."""
        return self.length_M[self.by_step_M].astype(np.float64)

    def shapes(self) -> list[tuple[int, int]]:
        """Return (K, B) of each step."""
        return list(zip(self.num_busy_T.tolist(), self.size_T.tolist(), strict=True))


def _owners(datasets: Sequence[PatientDataset]) -> Tensor | None:
    """Return the patient of each row of all data sets, counted on; None if each has one row."""
    if all(data.starts is None for data in datasets):
        return None
    owners, num_before = [], 0
    for data in datasets:
        patients = torch.arange(num_before, num_before + len(data))
        owners.append(
            patients if data.starts is None else patients.repeat_interleave(data.starts.diff())
        )
        num_before += len(data)
    return torch.cat(owners)


def _starts(lengths: Ints) -> Ints:
    """Return where each piece starts when all lie end to end."""
    return np.asarray(np.cumsum(lengths) - lengths, dtype=np.int64)


def _ramps(lengths: Ints) -> Ints:
    """Return 0 .. n - 1 for each n of `lengths`, one after the other."""
    lengths = lengths.astype(np.int64)
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)
