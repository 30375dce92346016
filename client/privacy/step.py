"""One step of DP-SGD, in the place of a plain step: clip per patient, add noise, step.

What is learned is a function of noised sums only, so that momentum, Adam, weight decay and the
corrections of strategies, which come after the noise, cost no privacy.

The unit is the patient; neighbouring data sets differ in one patient who is there or not. The
sensitivity of the sum is C, and its noise has the deviation sigma C in each coordinate.

Nothing is kept between steps but the optimiser's state, which is made of noised gradients: a step
that fails leaves nothing for the next one.

Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1. Divided by the expected number of
patients, not by those who were drawn: their number is private.

Opacus' `DPOptimizer` is the reference in the tests, not a part: it cannot clip per site in a stack,
draws noise tensor by tensor from torch's generators only, and keeps a half-summed batch when a
chunk fails. tests/benchmarks/dp_cost.py times the two beside each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedward.client.corrections import Correction
from fedward.client.optimizers import OptimizerSettings
from fedward.client.privacy.clipping import PatientGradients
from fedward.client.privacy.method import Method
from fedward.client.privacy.patients import Patients
from fedward.client.training import BoundOptimizer
from fedward.common.errors import ConfigError
from fedward.common.privacy.noise import NoiseSource
from fedward.common.task import Batch, Loss


@dataclass(frozen=True)
class Mechanism:
    """The Gaussian mechanism of one step.

    Args:
        noise_multiplier: sigma, deviation of the noise over the bound; 0 only clips.
        max_grad_norm: C > 0, the bound on a patient's gradient.
        expected_patients: q n > 0, patients per step on average, which the sum is divided by.

    Raises:
        ConfigError: a figure is out of range or not finite.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_patients: float

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ConfigError("privacy.noise_multiplier: expected a number of at least 0")
        if not 0 < self.max_grad_norm < math.inf:
            raise ConfigError("privacy.max_grad_norm: expected a number above 0")
        if not 0 < self.expected_patients < math.inf:
            raise ConfigError("local.batch_size: expected patients per step above 0")

    @property
    def deviation(self) -> float:
        """Of the noise on each coordinate of the sum."""
        return self.noise_multiplier * self.max_grad_norm


class PrivateStep:
    """One noised optimiser step for a batch, also for an empty one.

    Args:
        loss_per_sample: outputs and batch to (B,) losses.
        optimizer: fresh for every `PrivateStep`.
        correction: what the strategy adds to the noised gradient.
        method: how gradients per patient are computed (`method_for`).
        mechanism: bound and noise.
        noise: the source; every value of it is used once.
        tally: gets what the steps saw; None: the step has one of its own.
    """

    def __init__(  # noqa: PLR0913 - the parts of a plain step, and those of the mechanism
        self,
        loss_per_sample: Loss,
        optimizer: OptimizerSettings,
        correction: Correction | None = None,
        *,
        method: Method,
        mechanism: Mechanism,
        noise: NoiseSource,
        tally: "Tally | None" = None,
    ) -> None:
        self.loss_per_sample = loss_per_sample
        self.optimizer = optimizer
        self.correction = correction
        self.method = method
        self.mechanism = mechanism
        self.noise = noise
        self.tally = Tally() if tally is None else tally
        self._bound: tuple[BoundOptimizer, PatientGradients] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the patients' mean loss before the step, 0 for an empty batch. It is private."""
        if self._bound is None or self._bound[0].model is not model:
            bound = BoundOptimizer(model, self.optimizer, self.correction)
            self._bound = bound, self.method.gradients(model, self.loss_per_sample)
        bound, gradients = self._bound
        parameters = bound.parameters
        if len(batch["patient_id"]) == 0:
            sums: Sequence[Tensor] = [torch.zeros_like(p) for p in parameters]
            loss = sums[0].new_zeros(())
        else:
            patients = Patients.of(batch["patient_id"])
            found = gradients.clipped_sum(batch, patients, self.mechanism.max_grad_norm)
            sums, loss = found.sums, found.loss_G.mean()
            self.tally.norms.append(found.norm_G)
        with torch.no_grad():
            flat_P = torch.cat([gradient.reshape(-1) for gradient in sums])
            flat_P.add_(self.noise.normals(len(flat_P)).to(flat_P), alpha=self.mechanism.deviation)
            self.tally.lengths.append(torch.linalg.vector_norm(flat_P))
            flat_P.div_(self.mechanism.expected_patients)
            pieces = flat_P.split([p.numel() for p in parameters])
            noised = [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]
            bound.step(noised)
        return loss


class Tally:
    """What the steps of a round saw.

    Attributes:
        norms: of each step, the norms of the patients' gradients before clipping: private, for the
            site's own log and for simulations.
        lengths: of each step, the norm of the noised sum. It follows from what leaves anyway.
    """

    def __init__(self) -> None:
        self.norms: list[Tensor] = []
        self.lengths: list[Tensor] = []

    def summary(self, mechanism: Mechanism, num_parameters: int) -> dict[str, float]:
        """Return shares of the gradients that were clipped and left out, and signal over noise.

        A share is absent if nobody was drawn.
        """
        found = {"num_steps": float(len(self.lengths))}
        if self.norms:
            norm = torch.cat(self.norms)
            found["clipped"] = float((norm > mechanism.max_grad_norm).double().mean())
            found["left_out"] = float((~norm.isfinite()).double().mean())
        if self.lengths and mechanism.noise_multiplier:
            energy = float(torch.stack(self.lengths).double().square().mean())
            found["signal_to_noise"] = signal_to_noise(energy, mechanism, num_parameters)
        return found


def signal_to_noise(energy: float, mechanism: Mechanism, num_parameters: int) -> float:
    """Return how large the clipped sum is beside its noise, as far as the noised sum tells (ours).

    The squared length of signal plus noise is on average the signal's plus (sigma C)^2 P, so that
    no more is used than what leaves. Ratios below about (2 / (P steps))^(1/4) are not told from 0.

    Args:
        energy: mean squared norm of the noised sums.
        mechanism: with noise.
        num_parameters: P.
    """
    return math.sqrt(max(0.0, energy / (mechanism.deviation**2 * num_parameters) - 1.0))
