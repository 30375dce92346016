"""The task `ct-fingerprint`: nothing is trained; sites add up what nnU-Net plans a network from.

It runs like any other task, simulated or at hospitals, for one round with a network of one number.
The sums are in the run's checkpoint; `fedward plan` makes the sections of a training run of them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedward.common.images.fingerprint import (
    FINGERPRINT_SIZE,
    cases_of_rows,
    local_fingerprint,
)
from fedward.common.private_statistics import PrivateStatistic, Unprotected
from fedward.common.tables.split import held_out_rows
from fedward.common.tables.table import Table, TableSource
from fedward.common.task import (
    Batch,
    Kept,
    Loss,
    Metric,
    PatientDataset,
    SiteData,
    Split,
    Statistics,
)


class OneNumber(nn.Module):
    """A network that has nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, 1) zeros."""
        return self.nothing.expand(len(batch["patient_id"]), 1)


class CtFingerprint:
    """Sums over the training patients of spacing, size and intensity (`images.fingerprint`)."""

    name = "ct-fingerprint"
    primary_metric = "num_patients"
    secondary_metric: str | None = None
    statistics_size = FINGERPRINT_SIZE
    rows_per_pass = 4096
    augment = None

    def __init__(self, *, private: PrivateStatistic | None = None) -> None:
        self._private = private or Unprotected()

    @property
    def modalities(self) -> frozenset[str]:
        """Nothing: no network looks at the scans."""
        return frozenset()

    def lacking(self, source: TableSource) -> frozenset[str]:
        """Return nothing."""
        return frozenset()

    def build_model(self) -> nn.Module:
        """Return the network of one number."""
        return OneNumber()

    def local_statistics(self, source: TableSource, split: Split) -> Statistics:
        """Return the site's fingerprint, which adds up with those of others."""
        table = source.read()
        training = table.take(~held_out_rows(table, split, site=source.site_id))
        cases = cases_of_rows(training.arrays, training.patient_id)
        return self._private.release("fingerprint", local_fingerprint(cases))

    def datasets(
        self, source: TableSource, split: Split, statistics: Statistics | None = None
    ) -> SiteData:
        """Return the site's patients, without anything about them."""
        del statistics
        table = source.read()
        held_out = held_out_rows(table, split, site=source.site_id)
        return SiteData(_numbers(table.take(~held_out)), _numbers(table.take(held_out)))

    def loss_per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return (B,) zeros."""
        del batch
        return 0.0 * outputs[:, 0]

    def training_loss(self, model: nn.Module, validation: PatientDataset | None) -> Loss:
        """Return `loss_per_sample`."""
        del model, validation
        return self.loss_per_sample

    def condense(self, outputs: Tensor, batch: Batch) -> Kept:
        """Return nothing but the rows' patients."""
        del outputs
        return {"patient_id": batch["patient_id"]}

    def metrics(self, kept: Kept) -> dict[str, Metric]:
        """Return no figure: nothing was learned."""
        del kept
        return {}

    def details(self, kept: Kept) -> dict[str, Any]:
        """Return nothing."""
        del kept
        return {}

    def outcomes(self, kept: Kept) -> None:
        """Return nothing."""


def _numbers(table: Table) -> PatientDataset:
    patients = np.unique(table.patient_id)
    rows = {"patient_id": torch.from_numpy(patients), "label": torch.zeros(len(patients))}
    return PatientDataset(rows)
