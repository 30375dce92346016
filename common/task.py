"""What a task must say, and the batches it is trained on.

A batch is a dict of tensors with equal first dimension B (B = 0 is legal). It always carries
`patient_id` (B,) int64, `label` (B,), and one boolean `mask.<modality>` (B,) per modality.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Outputs = Any
"""What a model answers with: a tensor of logits, or a dict of them."""
Loss = Callable[[Outputs, Batch], Tensor]
Augment = Callable[[Batch, torch.Generator], Batch]
Kept = dict[str, Tensor]
Statistics = npt.NDArray[np.float64]
Outcomes = tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]
"""Whether each row is of class 1, (N,), and its predicted probability, (N,)."""


@dataclass(frozen=True, repr=False)
class PatientDataset:
    """The rows of one part (train or test) of one site, indexed by patient.

    `rows` holds tensors with equal first dimension N. `starts` (P + 1,) int64 says which rows
    are whose: patient p owns rows starts[p]:starts[p + 1]; None means one row per patient.
    It has no repr: patients are never printed.
    """

    rows: Mapping[str, Tensor]
    starts: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of patients."""
        if self.starts is not None:
            return len(self.starts) - 1
        return len(self.rows["patient_id"])

    def batch(self, patients: Tensor) -> Batch:
        """Return all rows of the patients at positions `patients` (B,) int64."""
        index = self.row_index(patients).to(self.rows["patient_id"].device)
        return {key: rows.index_select(0, index) for key, rows in self.rows.items()}

    def row_index(self, patients: Tensor) -> Tensor:
        """Return the positions of all rows of the patients at positions `patients`."""
        if self.starts is None:
            return patients
        pieces = [torch.arange(int(self.starts[p]), int(self.starts[p + 1])) for p in patients]
        return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)

    def all_rows(self) -> Batch:
        """Return every row, in order."""
        return dict(self.rows)

    def to(self, device: torch.device) -> "PatientDataset":
        """Return the same patients with their rows on `device`."""
        return PatientDataset(
            {key: rows.to(device) for key, rows in self.rows.items()}, self.starts
        )


def patient_dataset(rows: Mapping[str, Tensor]) -> PatientDataset:
    """Return the data set of `rows`, in which those of a patient stand next to each other."""
    patient_id = rows["patient_id"].numpy()
    changes = np.flatnonzero(np.diff(patient_id)) + 1
    if len(patient_id) == 0 or len(changes) + 1 == len(patient_id):
        return PatientDataset(rows)
    starts = np.concatenate([[0], changes, [len(patient_id)]])
    return PatientDataset(rows, torch.from_numpy(starts))


@dataclass(frozen=True, repr=False)
class SiteData:
    """One site's patients, split: no patient is in two parts."""

    train: PatientDataset
    test: PatientDataset
    validation: PatientDataset | None = None
    """Patients that steer training without being trained on; None where nothing needs them."""

    def to(self, device: torch.device) -> "SiteData":
        """Return the same patients on `device`."""
        validation = None if self.validation is None else self.validation.to(device)
        return SiteData(self.train.to(device), self.test.to(device), validation)


@dataclass(frozen=True)
class Metric:
    """A figure with its 95 % interval and the number of patients behind it.

    `value` is None where the metric is undefined; `reason` then says why.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None


class Task(Protocol):
    """One kind of learning problem: data in, model, loss, figures out."""

    name: str
    statistics_size: int
    """Length of `local_statistics`, known without data."""
    rows_per_pass: int
    """Most rows that are evaluated at once."""

    @property
    def modalities(self) -> frozenset[str]:
        """What the network looks at that a row may lack."""

    def lacking(self, source: Any) -> frozenset[str]:
        """Return which of `modalities` no row of a site has."""

    def build_model(self) -> nn.Module:
        """Return a freshly initialised model; the caller seeds torch (`seeded_global_torch`)."""

    def local_statistics(self, source: Any, split: "Split") -> Statistics:
        """Return sums over the training rows; adding two sites' gives those of both."""

    def datasets(
        self, source: Any, split: "Split", statistics: Statistics | None = None
    ) -> SiteData:
        """Return the site's patients, split and preprocessed.

        Args:
            source: where the site's rows come from; the only thing that differs between a
                simulation and a hospital.
            split: which patients are test patients.
            statistics: summed over the federation; None uses the site's own.
        """

    def loss_per_sample(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the (B,) losses by which models are compared. Never couples the samples."""

    def training_loss(self, model: nn.Module, validation: PatientDataset | None) -> Loss:
        """Return the per-sample loss that one round minimises.

        Args:
            model: as it was received.
            validation: patients whose figures may weigh the parts of the loss.
        """

    @property
    def primary_metric(self) -> str:
        """The figure by which models are compared."""

    @property
    def secondary_metric(self) -> str | None:
        """Compared as well where a task has two sides, such as masks beside classes."""

    @property
    def augment(self) -> Augment | None:
        """What is done to each training batch, sample by sample; None: nothing."""

    def condense(self, outputs: Outputs, batch: Batch) -> Kept:
        """Return all that figures need of one pass: small tensors with first dimension B."""

    def metrics(self, kept: Kept) -> dict[str, Metric]:
        """Return every figure of the task.

        Args:
            kept: what `condense` returned, over all test rows of one site, on the CPU.
        """

    def details(self, kept: Kept) -> dict[str, Any]:
        """Return what the report shows beside the figures: `calibration`, `subgroups`."""

    def outcomes(self, kept: Kept) -> Outcomes | None:
        """Return what noised figures are made of; None where there are not two classes of rows."""


@dataclass(frozen=True)
class Split:
    """Which patients are test patients: decided per patient by a seeded permutation.

    Without folds, `test_fraction` of the patients are test patients; with `num_folds` = k,
    fold `fold` (0-based) of k is.
    """

    seed: int
    test_fraction: float = 0.3
    fold: int | None = None
    num_folds: int | None = None
