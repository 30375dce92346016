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
        self._energy_S = torch.zeros(len(sites), dtype=torch.float64, device=device)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def gradients(
        self, calls: Sequence[Call], loss_R: Tensor, batch: StackedBatch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the noised gradients (K, ...) by name, and the sites' mean losses (K,).

        Args:
            calls: what `recorded` kept of the forward pass.
            loss_R: the rows' losses.
            batch: whose the rows are, and which of them are padding.
        """
        num_sites, num_rows = batch.weight_KB.shape
        is_row_R = batch.weight_KB.flatten() > 0
        patients = _patients(batch)
        share_R = is_row_R.to(loss_R.dtype)
        if not patients.is_one_each:
            share_R = share_R * patients.share_R.to(loss_R.dtype)
        # Not multiplied by 0: padding may repeat a row that is not finite.
        loss_R = torch.where(is_row_R, loss_R, torch.zeros_like(loss_R)) * share_R
        max_norm_R = self._max_norm_S[:num_sites, None].expand(-1, num_rows).reshape(-1)
        max_norm_G = max_norm_R
        if not patients.is_one_each:
            max_norm_G = max_norm_R.new_zeros(len(patients))
            max_norm_G[patients.group_R] = max_norm_R
        found = clipped_sums(calls, loss_R, patients, max_norm=max_norm_G, num_sites=num_sites)
        share_KB = share_R.view(num_sites, -1)
        self._seen.append((share_KB, patients.by_row(found.norm_G).view(num_sites, -1)))
        num_patients_K = share_KB.sum(1)
        loss_K = loss_R.detach().view(num_sites, -1).sum(1) / num_patients_K.clamp(min=1.0)
        return self._noised(found.sums, num_sites), loss_K

    def summary(self, place: int) -> dict[str, float]:
        """Return what the steps of one site saw, as `Tally.summary` does."""
        mechanism = self._mechanisms[place]
        seen = [(share[place], norm[place]) for share, norm in self._seen if place < len(share)]
        found = {"num_steps": float(len(seen))}
        if not seen:
            return found
        share, norm = (torch.cat(each).double() for each in zip(*seen, strict=True))
        drawn = float(share.sum())
        if drawn:
            found["clipped"] = float((share * (norm > mechanism.max_grad_norm)).sum()) / drawn
            found["left_out"] = float((share * ~norm.isfinite()).sum()) / drawn
        if mechanism.noise_multiplier:
            energy = float(self._energy_S[place]) / len(seen)
            found["signal_to_noise"] = signal_to_noise(energy, mechanism, sum(self._sizes))
        return found

    def _noised(self, sums: dict[str, Tensor], num_sites: int) -> dict[str, Tensor]:
        count = sum(self._sizes)
        normal_KP = torch.stack([source.normals(count) for source in self._sources[:num_sites]])
        noise_KP = normal_KP.to(self._device, torch.float32) * self._deviation_S[:num_sites, None]
        share_K1 = 1.0 / self._expected_S[:num_sites, None]
        flat_KP = torch.cat([sums[name].detach().flatten(1) for name in self._shapes], dim=1)
        noised_KP = flat_KP.mul_(share_K1).add_(noise_KP)
        length_K = torch.linalg.vector_norm(noised_KP, dim=1) * self._expected_S[:num_sites]
        self._energy_S[:num_sites] += length_K.square()
        pieces = noised_KP.split(self._sizes, dim=1)
        return {
            name: piece.view(num_sites, *shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def _patients(batch: StackedBatch) -> Patients:
    if batch.owner_R is None:
        return Patients(batch.weight_KB.numel(), device=batch.weight_KB.device)
    return Patients.of(batch.owner_R)
