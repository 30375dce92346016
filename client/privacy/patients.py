"""Which rows of a batch are whose: the unit of privacy is the patient, not the row.

A patient's loss is the mean over its rows, and its gradient is clipped as one.

Shapes: R rows of a batch, G patients in it, M most rows of one of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class Patients:
    """The patients of one batch, in rising order of their keys.

    Args:
        group_R: (R,) int64, the patient of each row, from 0.
        num_rows_G: (G,) int64, rows of each patient, all >= 1.
        is_one_each: whether row r is all of patient r.
    """

    group_R: Tensor
    num_rows_G: Tensor
    is_one_each: bool

    @classmethod
    def of(cls, key_R: Tensor) -> Self:
        """Return the patients of rows with these keys (int64); rows need not be in order."""
        rises = key_R[1:] > key_R[:-1]
        if bool(rises.all()):  # one row each, the usual case
            return cls.one_each(len(key_R), key_R.device)
        _, group_R, num_rows_G = torch.unique(key_R, return_inverse=True, return_counts=True)
        return cls(group_R, num_rows_G, is_one_each=False)

    @classmethod
    def one_each(cls, num_rows: int, device: torch.device) -> Self:
        """Return as many patients as rows."""
        return cls(
            torch.arange(num_rows, device=device),
            torch.ones(num_rows, dtype=torch.int64, device=device),
            is_one_each=True,
        )

    def __len__(self) -> int:
        """Return G."""
        return len(self.num_rows_G)

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
