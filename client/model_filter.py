"""The federated classifier as a filter of candidates: it has seen the borders of all sites."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward.common.tables.table import Table
from fedward.common.task import Statistics
from fedward.common.tasks.ehr_classification import EhrClassification


@dataclass(frozen=True)
class ModelFilter:
    """Keeps a candidate of a class if the model gives that class more than its prior.

    Judged by the probability alone, nearly everything would be taken for the larger class. The
    prior is the model's own mean probability over the site's training patients, so that a model
    that is trained on other shares of the classes, or badly calibrated here, does as well. It is
    ours; the vote of KDE-KNN against the class shares is its model.

    Args:
        task: how a table becomes features.
        model: with the parameters that the federation trained.
        statistics: summed over the federation; None: the site's own.
        prior_K: (K,) mean probability of each class.
    """

    task: EhrClassification
    model: nn.Module
    statistics: Statistics
    prior_K: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, task: EhrClassification, model: nn.Module, statistics: Statistics, training: Table
    ) -> "ModelFilter":
        """Return the filter of a site with these training patients."""
        prior_K = probabilities(task, model, statistics, training).mean(axis=0)
        return cls(task, model, statistics, prior_K)

    def __call__(self, code: int, table: Table) -> npt.NDArray[np.bool_]:
        """Return (N,) which candidates of class `code` are kept."""
        probability_NK = probabilities(self.task, self.model, self.statistics, table)
        kept: npt.NDArray[np.bool_] = probability_NK[:, code] > self.prior_K[code]
        return kept


@torch.no_grad()
def probabilities(
    task: EhrClassification, model: nn.Module, statistics: Statistics, table: Table
) -> npt.NDArray[np.float64]:
    """Return (N, K) probabilities of the classes, in the order of the rows."""
    model.eval()
    data = task.dataset(table, statistics, table.label).rows
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(table), task.rows_per_pass):
        here = slice(start, start + task.rows_per_pass)
        batch = {key: rows[here].to(device) for key, rows in data.items()}
        parts.append(torch.softmax(model(batch).double(), dim=1).cpu().numpy())
    found = np.concatenate(parts) if parts else np.zeros((0, task.schema.num_classes))
    # The dataset stands in the order of patients.
    order = np.argsort(table.patient_id, kind="stable")
    unsorted = np.empty_like(found)
    unsorted[order] = found
    return unsorted
