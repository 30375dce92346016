"""Patients who stand out as far as clipping lets them, and whether an update shows that they did.

The network of the run gets one more input column per canary. A canary has a large value in its own
column, which is 0 for everybody else: what the weights of that column become depends on this
canary and on noise, on nothing else. So m canaries are m separate attacks in one training, and
each is about as strong as one can be, whatever the network behind its first layer.

Everything behind the data is the run's own: its kind of network, the way it is clipped, the noise.

Source: the gradient canaries of Steinke et al. 2023, arXiv:2305.08846, section 6, as inputs (ours),
so that they pass the clipping whose absence must be seen.

Legend: M canaries, N rows, F columns, P values that travel.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.layout import FieldLayout, num_columns
from fedward.common.parameters import ParameterSet
from fedward.common.tables.encode import FieldLayout as Columns
from fedward.common.task import Batch, Loss, PatientDataset

FEATURES = "features"
LOUDNESS = 8.0
"""Wanted length of a canary's gradient over the bound, so that clipping that is missing shows.

With more, noise in the weights of its column soon teaches the model its label, and it falls silent.
A network that normalises its inputs (FT-Transformer) does not let it grow so far."""
MAX_VALUE = 2.0**24
FEW = 8
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def widened(layout: FieldLayout, num_canaries: int) -> Columns:
    """Return the layout of a table with one more column per canary, at the end."""
    width = num_columns(layout)
    starts = range(width, width + num_canaries)
    return Columns(
        (*layout.names, *(f"canary {number}" for number in range(num_canaries))),
        (*layout.starts, *starts),
        (*layout.stops, *(start + 1 for start in starts)),
    )


@dataclass(frozen=True, repr=False)
class Attacked:
    """The model as it is sent to a site, and what of it travels."""

    model: nn.Module
    loss: Loss
    shared: ParameterSet


@dataclass(frozen=True, repr=False)
class Canaries:
    """The canaries of one audit, and what each would do to the model as it is sent.

    Args:
        rows: one per canary.
        owner_P: the only canary whose gradient reaches a value that travels; -1: none or several.
        slope_P: that gradient.
        loudness: length of the canaries' gradients over the bound, the median.
    """

    rows: Batch
    owner_P: npt.NDArray[np.int64]
    slope_P: Floats
    loudness: float

    @classmethod
    def of(
        cls, attacked: Attacked, rows: Batch, *, num_canaries: int, max_norm: float
    ) -> "Canaries":
        """Return canaries whose gradients are `LOUDNESS` times the bound, or as near as can be.

        Args:
            attacked: the last `num_canaries` columns of its input are theirs.
            rows: of patients, without those columns; only their form is used.
            num_canaries: M.
            max_norm: the bound on a patient's gradient.

        Raises:
            ConfigError: nothing can be seen of a canary, or they do not reach the bound.
        """
        value, loudest = 1.0, (0.0, 1.0)
        while loudest[0] < LOUDNESS and value <= MAX_VALUE:
            few = _rows(attacked.model, rows, num_canaries, value)
            found = _traces(attacked, {name: column[:FEW] for name, column in few.items()})
            loudest = max(loudest, (float(found.norm_M.min()) / max_norm, value))
            value *= 2
        made = _rows(attacked.model, rows, num_canaries, loudest[1])
        traces = _traces(attacked, made)
        loudness = float(np.median(traces.norm_M)) / max_norm
        if loudness < 1:
            raise ConfigError(
                f"privacy.max_grad_norm: no canary's gradient is as long as {max_norm:g}, so that "
                "nothing is clipped and an audit would say little; lower it"
            )
        if len(np.unique(traces.owner_P[traces.owner_P >= 0])) < num_canaries:
            raise ConfigError(
                "shared: the weights of single columns do not travel, so that an audit by columns "
                "sees nothing; share the first layer"
            )
        return cls(made, traces.owner_P, traces.slope_P, loudness)

    def __len__(self) -> int:
        """Return M."""
        return len(self.rows["patient_id"])

    def added_to(self, data: PatientDataset, is_in_M: Bools) -> PatientDataset:
        """Return the patients, and the canaries that `is_in_M` says as patients of a row each."""
        count = len(data.rows["patient_id"])
        chosen = torch.from_numpy(np.flatnonzero(is_in_M))
        added = {name: column[chosen] for name, column in self.rows.items()}
        first = int(data.rows["patient_id"].max()) + 1 if count else 0
        added["patient_id"] = torch.arange(len(chosen)) + first
        features_NF = data.rows[FEATURES]
        there = {**data.rows, FEATURES: _padded(features_NF, len(self))}
        rows = {name: torch.cat([column, added[name]]) for name, column in there.items()}
        if data.starts is None:
            return PatientDataset(rows)
        ends = torch.arange(count + 1, count + 1 + len(chosen))
        return PatientDataset(rows, torch.cat([data.starts, ends]))

    def scores(self, moved_P: Floats) -> Floats:
        """Return (M,), how far the model went the way that each canary pushes it.

        Args:
            moved_P: (P,) float64, what the site received minus what it returned, over all rounds.
        """
        own_P = self.owner_P >= 0
        share_P = (self.slope_P * moved_P)[own_P]
        scores = np.bincount(self.owner_P[own_P], weights=share_P, minlength=len(self))
        return scores.astype(np.float64)


def _rows(model: nn.Module, rows: Batch, num_canaries: int, value: float) -> Batch:
    """Return a row per canary: `value` in its own column, and the label the model expects least.

    With another label some would be in the right from the start, and their gradients zero.
    """
    number_M = torch.arange(num_canaries)
    made = {
        name: column.new_zeros(num_canaries, *column.shape[1:]) for name, column in rows.items()
    }
    made |= {name: ~column for name, column in made.items() if name.startswith("mask.")}
    made[FEATURES] = _padded(made[FEATURES], num_canaries)
    made[FEATURES][number_M, rows[FEATURES].shape[1] + number_M] = value
    with torch.no_grad():
        made["label"] = model(made).argmin(dim=1).to(rows["label"])
    return made


def _padded(features_NF: Tensor, num_canaries: int) -> Tensor:
    return torch.cat([features_NF, features_NF.new_zeros(len(features_NF), num_canaries)], dim=1)


@dataclass(frozen=True, repr=False)
class _Traces:
    owner_P: npt.NDArray[np.int64]
    slope_P: Floats
    norm_M: Floats
    """Length of each gradient over all weights, also those that do not travel."""


def _traces(attacked: Attacked, rows: Batch) -> _Traces:
    """Return which value is reached by which row alone, one row after the other.

    All gradients at once would not fit in memory: a thousand canaries, and as many columns.
    """
    model, size = attacked.model, attacked.shared.size
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    resting = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    owner_P, count_P, slope_P = np.full(size, -1), np.zeros(size, dtype=np.int64), np.zeros(size)
    norms = []
    was_training = model.training
    model.eval()
    for number in range(len(rows["patient_id"])):
        row = {name: column[number : number + 1] for name, column in rows.items()}
        loss = attacked.loss(model(row), row).sum()
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        norms.append(float(torch.cat([g.reshape(-1) for g in found]).norm()))
        told_P = attacked.shared.flatten({**resting, **dict(zip(named, found, strict=True))})
        reached_P = told_P != 0
        owner_P[reached_P] = number
        count_P += reached_P
        slope_P += told_P
    model.train(was_training)
    owner_P[count_P != 1] = -1
    return _Traces(owner_P, slope_P, np.array(norms))
