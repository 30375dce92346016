"""Which rows of a batch are whose: the unit of privacy is the patient, not the row.

A patient's loss is the mean over its rows, and its gradient is clipped as one.

Shapes: R rows of a batch, G patients in it, M most rows of one of them.
"""

from functools import cached_property
from typing import Self

import torch
from torch import Tensor


class Patients:
    """The patients of one batch, in rising order of their keys.

    Args:
        num_rows_G: (G,) int64, rows of each patient, all >= 1; or G, with a row each.
        group_R: (R,) int64, the patient of each row, from 0; None: row r is all of patient r.
        device: of the rows.
    """

    def __init__(
        self, num_rows_G: Tensor | int, group_R: Tensor | None = None, *, device: torch.device
    ) -> None:
        self.is_one_each = group_R is None
        self._num_patients = num_rows_G if isinstance(num_rows_G, int) else len(num_rows_G)
        self._num_rows_G = num_rows_G
        self._group_R = group_R
        self._device = device

    @classmethod
    def of(cls, key_R: Tensor) -> Self:
        """Return the patients of rows with these keys (int64); rows need not be in order."""
        if bool((key_R[1:] > key_R[:-1]).all()):  # one row each, the usual case
            return cls(len(key_R), device=key_R.device)
        _, group_R, num_rows_G = torch.unique(key_R, return_inverse=True, return_counts=True)
        return cls(num_rows_G, group_R, device=key_R.device)

    @cached_property
    def group_R(self) -> Tensor:
        """The patient of each row, from 0."""
        if self._group_R is not None:
            return self._group_R
        return torch.arange(self._num_patients, device=self._device)

    @cached_property
    def num_rows_G(self) -> Tensor:
        """How many rows each patient has."""
        if isinstance(self._num_rows_G, Tensor):
            return self._num_rows_G
        return torch.ones(self._num_rows_G, dtype=torch.int64, device=self._device)

    def __len__(self) -> int:
        """Return G."""
        return self._num_patients

    @cached_property
    def share_R(self) -> Tensor:
        """What each row counts in its patient's mean: 1 / rows, float64."""
        return 1.0 / self.num_rows_G.double()[self.group_R]

    @cached_property
    def order_R(self) -> Tensor:
        """The rows, those of patient 0 first, then those of patient 1 ..."""
        return self.group_R.argsort(stable=True)

    def sums(self, values_R: Tensor) -> Tensor:
        """Return (G, ...), the sums over each patient's rows of `values_R` (R, ...)."""
        if self.is_one_each:
            return values_R
        out_G = values_R.new_zeros(len(self), *values_R.shape[1:])
        return out_G.index_add_(0, self.group_R, values_R)

    def by_row(self, values_G: Tensor) -> Tensor:
        """Return (R,), for each row the value of its patient in `values_G` (G,)."""
        return values_G if self.is_one_each else values_G[self.group_R]

    def side_by_side(self, values_R: Tensor) -> Tensor:
        """Return (G, M, ...), each patient's rows of `values_R` (R, ...), and zeros behind them."""
        if self.is_one_each:
            return values_R.unsqueeze(1)
        padded = torch.cat([values_R, values_R.new_zeros(1, *values_R.shape[1:])])
        return padded[self._place_GM]

    @cached_property
    def _place_GM(self) -> Tensor:
        """Where each patient's rows are; R, one past the last row, where there is none."""
        starts_G = self.num_rows_G.cumsum(0) - self.num_rows_G
        sorted_group_R = self.group_R[self.order_R]
        slot_R = torch.arange(len(self.group_R), device=self.group_R.device)
        slot_R = slot_R - starts_G[sorted_group_R]
        shape = (len(self), int(self.num_rows_G.max()))
        place_GM = torch.full(shape, len(self.group_R), device=self.group_R.device)
        place_GM[sorted_group_R, slot_R] = self.order_R
        return place_GM
