"""Figures of a site's test patients with noise: counts by outcome and predicted probability.

Each patient is one count in a table of two outcomes by `BINS` probabilities, so that one patient
more or less changes it by a vector of length 1 at most: a step of the Gaussian mechanism in which
everybody takes part. AUROC and the other figures are computed from the noised table, which costs no
more (ours; the table is the usual histogram release of Dwork et al. 2006,
doi:10.1007/11681878_14).

Shapes: N rows, O = 2 outcomes, B bins.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedward.common.intervals import z_value
from fedward.common.metrics import binary_metrics
from fedward.common.privacy.noise import NoiseSource
from fedward.common.task import Metric

BINS = 10
REPLICAS = 50
Table = npt.NDArray[np.float64]


def count_table(
    label_N: npt.NDArray[np.bool_], probability_N: npt.NDArray[np.floating], starts: Tensor | None
) -> Table:
    """Return (O, B) counts of patients; one with several rows is split evenly among them.

    Args:
        label_N: outcomes.
        probability_N: predicted, of the outcome; one that is not finite counts as 0.
        starts: as in `PatientDataset`.
    """
    share_N = np.ones(len(label_N))
    if starts is not None:
        num_rows = starts.diff().numpy()
        share_N = np.repeat(1.0 / np.maximum(num_rows, 1), num_rows)
    finite_N = np.nan_to_num(np.asarray(probability_N, dtype=np.float64), posinf=0.0, neginf=0.0)
    bin_N = np.minimum((finite_N.clip(0, 1) * BINS).astype(np.int64), BINS - 1)
    table_OB = np.zeros((2, BINS))
    np.add.at(table_OB, (label_N.astype(np.int64), bin_N), share_N)
    return table_OB


def noised_table(table_OB: Table, deviation: float, source: NoiseSource) -> Table:
    """Return the counts with Gaussian noise of this deviation on each."""
    noise = source.normals(table_OB.size).to(torch.float64).numpy().reshape(table_OB.shape)
    return np.asarray(table_OB + deviation * noise)


def figures_of(noised_OB: Table, deviation: float) -> dict[str, Metric]:
    """Return the figures of the noised counts; their intervals are of patients and noise together.

    Args:
        noised_OB: from `noised_table`.
        deviation: of its noise.
    """
    found = binary_metrics(*_rows(noised_OB))
    # Once more noise shows how far noise moves a figure. It tells nothing: the counts are out.
    rng = np.random.default_rng(0)
    again = [
        binary_metrics(*_rows(noised_OB + rng.normal(0, deviation, noised_OB.shape)))
        for _ in range(REPLICAS)
    ]
    return {
        name: _widened(one, [each[name].value for each in again]) for name, one in found.items()
    }


def _rows(table_OB: Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return labels and probabilities of as many patients as the counts say, rounded."""
    count_OB = np.rint(table_OB.clip(0)).astype(np.int64)
    centre_B = (np.arange(BINS) + 0.5) / BINS
    label = np.repeat([0, 1], count_OB.sum(1))
    return label, np.concatenate([np.repeat(centre_B, counts) for counts in count_OB])


def _widened(metric: Metric, replicas: list[float | None]) -> Metric:
    known = [value for value in replicas if value is not None]
    if metric.value is None or metric.low is None or metric.high is None or not known:
        return metric
    of_noise = z_value() * float(np.std([*known, metric.value]))
    low, high = metric.value - metric.low, metric.high - metric.value
    return replace(
        metric,
        low=max(0.0, metric.value - float(np.hypot(low, of_noise))),
        high=min(1.0, metric.value + float(np.hypot(high, of_noise))),
    )
