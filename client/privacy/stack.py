"""DP-SGD of many stacked sites at once, each with its own bound, noise and sampling.

Shapes: K sites that are still busy, B rows of each, R = K * B, P trained values of the model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedward.client.privacy.dense_rules import Call
from fedward.client.privacy.ghost import clipped_sums
from fedward.client.privacy.patients import Patients
from fedward.client.privacy.step import Mechanism, signal_to_noise
from fedward.client.schedule import StackedBatch
from fedward.common.privacy.noise import NoiseSource


class PrivateSite(NamedTuple):
    """One site's mechanism, and its own source of noise."""

    mechanism: Mechanism
    noise: NoiseSource


class Stack:
    """The mechanisms of S sites that are trained at once, in the order of their rows.

    A site draws the same noise as if it were trained alone: one value per weight in the order of
    `model.named_parameters()`.

    Args:
        sites: their mechanisms and sources.
        shapes: of one site's trained weights by name, in the order of the noise.
        device: of the weights.
    """

    def __init__(
        self,
        sites: Sequence[PrivateSite],
        shapes: dict[str, tuple[int, ...]],
        device: torch.device,
    ) -> None:
        mechanisms = self._mechanisms = [site.mechanism for site in sites]
        self._sources = [site.noise for site in sites]
        self._shapes = shapes
        self._sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        self._device = device
        self._max_norm_S = self._column([m.max_grad_norm for m in mechanisms])
        self._expected_S = self._column([m.expected_patients for m in mechanisms])
        self._deviation_S = self._column([m.deviation for m in mechanisms]) / self._expected_S
        self._counts_S3 = torch.zeros(len(sites), 3, dtype=torch.float64, device=device)
        self._energy_S = torch.zeros(len(sites), dtype=torch.float64, device=device)
        self._num_steps_S = [0] * len(sites)

    def gradients(
        self, calls: Sequence[Call], loss_R: Tensor, batch: StackedBatch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the noised gradients (K, ...) by name, and the sites' mean losses (K,).

        Args:
            calls: what `recorded` kept of the forward pass.
            loss_R: the rows' losses.
            batch: whose the rows are, and which of them are padding.
        """
        num_sites = len(batch.weight_KB)
        is_row_R = batch.weight_KB.flatten() > 0
        patients = _patients(batch)
        share_R = patients.share_R.to(loss_R.dtype) * is_row_R
        # Not multiplied by 0: padding may repeat a row that is not finite.
        loss_R = torch.where(is_row_R, loss_R, torch.zeros_like(loss_R)) * share_R
        max_norm_R = self._max_norm_S[:num_sites].repeat_interleave(batch.weight_KB.shape[1])
        max_norm_G = max_norm_R
        if not patients.is_one_each:
            max_norm_G = max_norm_R.new_zeros(len(patients))
            max_norm_G[patients.group_R] = max_norm_R
        found = clipped_sums(calls, loss_R, patients, max_norm=max_norm_G, num_sites=num_sites)
        share_KB = share_R.double().view(num_sites, -1)
        norm_KB = patients.by_row(found.norm_G).view(num_sites, -1)
        self._count(share_KB, norm_KB)
        num_patients_K = share_KB.sum(1)
        loss_K = loss_R.detach().view(num_sites, -1).sum(1) / num_patients_K.clamp(min=1.0)
        return self._noised(found.sums, num_sites), loss_K

    def summary(self, place: int) -> dict[str, float]:
        """Return what the steps of one site saw, as `Tally.summary` does."""
        drawn, clipped, left_out = self._counts_S3[place].tolist()
        num_steps = self._num_steps_S[place]
        found = {"num_steps": float(num_steps)}
        if drawn:
            found |= {"clipped": clipped / drawn, "left_out": left_out / drawn}
        if num_steps and self._mechanisms[place].noise_multiplier:
            energy = float(self._energy_S[place]) / num_steps
            mechanism = self._mechanisms[place]
            found["signal_to_noise"] = signal_to_noise(energy, mechanism, sum(self._sizes))
        return found

    def _noised(self, sums: dict[str, Tensor], num_sites: int) -> dict[str, Tensor]:
        count = sum(self._sizes)
        normal_KP = torch.stack([source.normals(count) for source in self._sources[:num_sites]])
        noise_KP = normal_KP.to(self._device, torch.float32)
        noise_KP = noise_KP * self._deviation_S[:num_sites, None]
        share_K = 1.0 / self._expected_S[:num_sites]
        noised = {}
        for (name, shape), noise in zip(
            self._shapes.items(), noise_KP.split(self._sizes, dim=1), strict=True
        ):
            by_site = (num_sites, *(1,) * len(shape))
            noised[name] = (sums[name] * share_K.view(by_site)).add_(noise.view(num_sites, *shape))
        squares = [values.detach().flatten(1).square().sum(1) for values in noised.values()]
        self._energy_S[:num_sites] += torch.stack(squares).sum(0) / share_K.square()
        return noised

    def _count(self, share_KB: Tensor, norm_KB: Tensor) -> None:
        num_sites = len(share_KB)
        is_clipped_KB = norm_KB > self._max_norm_S[:num_sites, None]
        is_left_out_KB = ~norm_KB.isfinite()
        counts = [share_KB, share_KB * is_clipped_KB, share_KB * is_left_out_KB]
        self._counts_S3[:num_sites] += torch.stack([each.sum(1) for each in counts], dim=1)
        for place in range(num_sites):
            self._num_steps_S[place] += 1

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def _patients(batch: StackedBatch) -> Patients:
    if batch.owner_R is None:
        return Patients(batch.weight_KB.numel(), device=batch.weight_KB.device)
    return Patients.of(batch.owner_R)
