"""What the history of a run does not say and some stop rules ask for, taken from the updates.

Shapes: S sites, D parameters.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedward.common.flower import view
from fedward.common.records import PARAMETERS, arrays_of
from fedward.common.task import Batch, PatientDataset
from fedward.common.vectors import Vector
from fedward.server.validation import Accepted
from fedward.simulations.federation import Federation

Loss = Callable[[Vector], float]
MAX_LEFT_OUT = 24
"""With more sites nobody is left out: that takes a look at all validation patients for each."""


class UpdateObserver:
    """Adds up Pflug's statistic, and leaves out each site in turn; called once a round.

    Args:
        loss: of a model on the sites' validation patients; None: nobody is left out.
    """

    def __init__(self, loss: Loss | None) -> None:
        self.pflug: dict[int, float] = {}
        """By round, the sum up to then; from the second round on."""
        self.left_out: dict[int, dict[str, float]] = {}
        """By round and site, how much higher the loss is without the site's update."""
        self._loss = loss
        self._last: Vector | None = None
        self._sum = 0.0

    def __call__(
        self, number: int, received: Vector, replies: Sequence[Accepted], vector: Vector
    ) -> None:
        """Look at a round."""
        step = vector - received
        if self._last is not None:
            self._sum += float(np.dot(step.astype(np.float64), self._last))
            self.pflug[number] = self._sum
        self._last = step
        if self._loss is not None and 2 <= len(replies) <= MAX_LEFT_OUT:
            trained = [view(arrays_of(reply.message.content)[PARAMETERS]) for reply in replies]
            gains = left_out_gains(trained, [reply.num_examples for reply in replies], self._loss)
            self.left_out[number] = {
                reply.site: gain
                for reply, gain in zip(replies, gains, strict=True)
                if np.isfinite(gain)
            }


def left_out_gains(trained: Sequence[Vector], weights: Sequence[float], loss: Loss) -> list[float]:
    """Return by how much `loss` of the weighted mean is higher without each of the models.

    Args:
        trained: (D,) per site, at least two.
        weights: > 0, such as numbers of patients.
        loss: of a model (D,).
    """
    share_S = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    mean: Vector = np.zeros_like(trained[0])
    for share, model in zip(share_S.astype(np.float32), trained, strict=True):
        mean += share * model
    together = loss(mean)
    gains = []
    for share, model in zip(share_S.astype(np.float32), trained, strict=True):
        without: Vector = (mean - share * model) / (1 - share)
        gains.append(loss(without) - together)
    return gains


def validation_loss(federation: Federation) -> Loss | None:
    """Return what gives a model's mean loss on the validation patients of all sites.

    None where there are no such patients, or where a part of the model stays at its site.
    """
    model = federation.new_model()
    shared = federation.shared_of(model)
    floating = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    if set(shared.names) != floating or federation.config.data.validation_fraction == 0:
        return None
    task, split = federation.task, federation.split
    sources = [federation.sites.source(site) for site in federation.sites.site_ids]
    statistics = None
    if federation.statistics_are_shared and task.statistics_size:
        sums = [task.local_statistics(source, split) for source in sources]
        statistics = np.sum(sums, axis=0)
    parts = [task.datasets(source, split, statistics).validation for source in sources]
    known = [part for part in parts if part is not None and len(part) > 0]
    return _ValidationLoss(federation, known) if known else None


class _ValidationLoss:
    """The mean loss over all rows of `parts`."""

    def __init__(self, federation: Federation, parts: Sequence[PatientDataset]) -> None:
        self._task = federation.task
        self._model = federation.new_model()
        self._shared = federation.shared_of(self._model)
        self._parts = [part.all_rows() for part in parts]

    def __call__(self, vector: Vector) -> float:
        self._shared.load(self._model, vector)
        self._model.eval()
        with torch.no_grad():
            losses = [loss for rows in self._parts for loss in self._losses(rows)]
        return float(torch.cat(losses).double().mean())

    def _losses(self, rows: Batch) -> Iterator[Tensor]:
        at_once = self._task.rows_per_pass
        for place in range(0, len(rows["patient_id"]), at_once):
            batch = {key: column[place : place + at_once] for key, column in rows.items()}
            yield self._task.loss_per_sample(self._model(batch), batch)
