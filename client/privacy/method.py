"""Which way of clipping suits a network, found out before the first patient is looked at.

| network | method | cost over plain training, CPU |
|---|---|---|
| dense: linear layers, norms, FT-Transformer | `dense`, one backward pass | see tests/benchmarks |
| others that vmap can take | `vectorised`, gradients of many rows at once | 1.1 to 1.6 |
| others: recurrent, or too large | `one-by-one`, a pass per patient | up to the batch size |

Refused is what lets patients see each other or remembers them: batch normalisation, running
statistics, a forward that writes to a buffer.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedward.client.memory import activation_bytes
from fedward.client.privacy.by_row import OneByOneGradients, VectorisedGradients
from fedward.client.privacy.clipping import PatientGradients
from fedward.client.privacy.ghost import DenseGradients, is_dense
from fedward.client.privacy.patients import Patients
from fedward.common.errors import ConfigError
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch, Loss

MEMORY_LIMIT_BYTES = 2**30
FIXED_BYTES = 50 * 2**20
COPIES = 3
"""Of a row's gradient, while those of many rows are clipped: measured 2.3 to 3.3."""
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_VMAP_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
_log = logging.getLogger("fedward.training")


@dataclass(frozen=True)
class Method:
    """How gradients per patient are computed.

    Args:
        kind: see the table in the module.
        rows_at_once: most rows whose gradients, or activations, are in memory.
    """

    kind: Literal["dense", "vectorised", "one-by-one"]
    rows_at_once: int = 1

    def gradients(self, model: nn.Module, loss_per_sample: Loss) -> PatientGradients:
        """Return what computes the clipped sums of one model."""
        if self.kind == "dense":
            return DenseGradients(model, loss_per_sample)
        kind = VectorisedGradients if self.kind == "vectorised" else OneByOneGradients
        return kind(model, loss_per_sample, rows_at_once=self.rows_at_once)


def method_for(
    model: nn.Module,
    loss_per_sample: Loss,
    rows: Batch,
    *,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Method:
    """Return the quickest method that is right for `model`, tried out on rows of zeros.

    Args:
        model: on its device; it keeps its weights.
        loss_per_sample: outputs and batch to (B,) losses.
        rows: of a site, at least one; only their form is used.
        memory_limit_bytes: for gradients and activations.

    Raises:
        ConfigError: the network cannot be trained privately; says which part, and what to do.
    """
    check_model(model)
    blank = _blank_rows(rows)
    was_training = model.training
    model.train()
    try:
        with seeded_global_torch(0):
            _check_pass(model, loss_per_sample, blank)
            if is_dense(model):
                return Method("dense")
            return _by_row(model, loss_per_sample, blank, memory_limit_bytes)
    finally:
        model.train(was_training)


def check_model(model: nn.Module) -> None:
    """Refuse a network that cannot be trained privately, as far as its parts show it.

    Raises:
        ConfigError: says which part, and what to do.
    """
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"privacy.mode: dp-sgd cannot train model part {name!r}: batch normalisation "
                "mixes patients and keeps their means; use model.norm: group, layer or instance"
            )
        if isinstance(part, _INSTANCE_NORMS) and part.track_running_stats:
            raise ConfigError(
                f"privacy.mode: dp-sgd cannot train model part {name!r}: it keeps running "
                "statistics of patients; build it with track_running_stats=False"
            )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ConfigError("privacy.mode: dp-sgd has nothing to train; every weight is frozen")
    for name, parameter in trained.items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"privacy.mode: dp-sgd needs weights in float32; {name!r} is {parameter.dtype}, "
                "in which the noise would be rounded to few values"
            )


def _check_pass(model: nn.Module, loss_per_sample: Loss, blank: Batch) -> None:
    """Run one pass; refuse buffers that it writes to, and losses that are not per sample."""
    before = {name: (b, b._version) for name, b in model.named_buffers()}
    losses = loss_per_sample(model(blank), blank)
    for name, buffer in model.named_buffers():
        was, version = before.get(name, (None, 0))
        if was is not buffer or version != buffer._version:
            raise ConfigError(
                f"privacy.mode: dp-sgd cannot train this network: its forward writes to buffer "
                f"{name!r}, which would remember patients without noise"
            )
    num_rows = len(blank["patient_id"])
    if losses.shape != (num_rows,):
        raise ConfigError(
            f"privacy.mode: dp-sgd needs a loss of each row; of {num_rows} rows the loss has the "
            f"shape {tuple(losses.shape)}"
        )
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
    unused = [name for name, gradient in zip(named, found, strict=True) if gradient is None]
    if unused:
        _log.warning(
            "privacy.mode: the loss does not depend on %s; such weights learn nothing and still "
            "take up noise: freeze them",
            ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if unused[5:] else ""),
        )


def _by_row(
    model: nn.Module, loss_per_sample: Loss, blank: Batch, memory_limit_bytes: int
) -> Method:
    row = {name: values[:1] for name, values in blank.items()}
    gradient_bytes = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    row_bytes = 2 * activation_bytes(model, row)
    free = memory_limit_bytes - FIXED_BYTES
    one_by_one = Method("one-by-one", max(1, (free - COPIES * gradient_bytes) // row_bytes))
    rows_at_once = free // (COPIES * gradient_bytes + row_bytes)
    if rows_at_once < 2:
        return one_by_one
    patients = Patients.of(blank["patient_id"])
    try:
        VectorisedGradients(model, loss_per_sample, rows_at_once=2).clipped_sum(
            blank, patients, 1.0
        )
    except _VMAP_ERRORS as error:
        _log.warning(
            "privacy.mode: gradients of this network are computed one patient at a time, which is "
            "slow: torch.func.vmap cannot take it (%s)",
            next(iter(str(error).splitlines()), type(error).__name__),
        )
        return one_by_one
    return Method("vectorised", rows_at_once)


def _blank_rows(rows: Batch) -> Batch:
    """Return two rows of zeros, every modality there: of a site's data only the form is used."""

    def blank(name: str, column: Tensor) -> Tensor:
        filled = torch.zeros(2, *column.shape[1:], dtype=column.dtype, device=column.device)
        return ~filled if name.startswith("mask.") and column.dtype == torch.bool else filled

    blanks = {name: blank(name, column) for name, column in rows.items()}
    blanks["patient_id"] = torch.arange(2, device=blanks["patient_id"].device)
    return blanks
