"""The sum of patients' gradients, each clipped to a bound: the one thing that noise is added to.

Legend: G patients of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedward.client.privacy.patients import Patients
from fedward.common.task import Batch

SLACK = 1e-6
"""Added to a norm before it divides: rounding must not leave a gradient longer than the bound."""


@dataclass(frozen=True, repr=False)
class ClippedSum:
    """What a batch comes to before noise. Nothing of it may leave the site as it is.

    Args:
        sums: one tensor per trained parameter, the sum of the patients' clipped gradients.
        loss_G: each patient's loss.
        norm_G: each patient's gradient norm before clipping; not finite where it was left out.
    """

    sums: Sequence[Tensor]
    loss_G: Tensor
    norm_G: Tensor


class PatientGradients(Protocol):
    """Computes clipped sums for one model and one loss."""

    def clipped_sum(self, batch: Batch, patients: Patients, max_norm: float) -> ClippedSum:
        """Return the sum over the patients of the batch, of which there is at least one."""


def clip_factors(norm_G: Tensor, max_norm: Tensor | float) -> Tensor:
    """Return (G,), what each gradient is multiplied by: min(1, C / norm), and 0 for broken ones.

    A gradient that is not finite is left out rather than repaired: a rule of one patient alone,
    which leaves the sensitivity at C.

    Args:
        norm_G: L2 norms over all trained parameters.
        max_norm: C > 0, or (G,) of them.

    Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1; the slack is that of Opacus.
    """
    return (max_norm / (norm_G + SLACK)).clamp(max=1.0).nan_to_num(nan=0.0)


def are_finite(norm_G: Tensor) -> bool:
    """Return whether all norms are finite, quickly; False may also mean that they are large."""
    return math.isfinite(float(norm_G.sum()))
