"""Averages the products of low-rank adapters, and returns the best adapters of the same rank.

The mean of the products B A over the sites has a rank of up to sites times rank; the truncated
singular value decomposition is its nearest matrix of the rank (Eckart and Young 1936). What is
shared beside adapters is averaged as it is. A strategy is then given the result as if one site had
sent it.

Source: `svd` after Bai et al. 2024, FlexLoRA, arXiv:2402.11505.
Legend: S sites, r rank, o outputs, i inputs (times the kernel).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Message, MetricRecord
from torch import Tensor

from fedward.common.flower import Records, view
from fedward.common.models.low_rank import adapter_pairs, initial_length
from fedward.common.parameters import ParameterSet
from fedward.common.records import PARAMETERS, array_record, arrays_of


@dataclass(frozen=True)
class ProductAverage:
    """The rule of a run whose adapters are averaged by their products.

    Args:
        shared: what travels.
    """

    shared: ParameterSet

    def combine(self, messages: Sequence[Message]) -> Message:
        """Return one reply in place of all, with the sum of their patients.

        Args:
            messages: the sites' replies, checked, at least one.
        """
        counts = [_number(message, "num-examples") for message in messages]
        states = [
            self.shared.unflatten(view(arrays_of(message.content)[PARAMETERS]))
            for message in messages
        ]
        losses = [_number(message, "train_loss") for message in messages]
        total = sum(counts)
        share_S = torch.tensor(counts, dtype=torch.float64) / total
        mean = average(states, share_S)
        loss = sum(count * loss for count, loss in zip(counts, losses, strict=True)) / total
        combined = messages[0]
        combined.content = Records(
            {
                "arrays": array_record({PARAMETERS: self.shared.flatten(mean)}),
                "metrics": MetricRecord({"num-examples": int(total), "train_loss": loss}),
            }
        )
        return combined


def average(states: Sequence[Mapping[str, Tensor]], share_S: Tensor) -> dict[str, Tensor]:
    """Return the mean of the sites' tensors; of adapters, that of their products.

    Args:
        states: tensors by name.
        share_S: (S,) float64, what each site counts; the sum is 1.
    """
    found = {
        name: sum(s * state[name].double() for s, state in zip(share_S, states, strict=True))
        for name in states[0]
    }
    for name_a, name_b in adapter_pairs(states[0]):
        a_Sri = torch.stack([state[name_a].double().flatten(1) for state in states])
        b_Sor = torch.stack([state[name_b].double().flatten(1) for state in states])
        a_ri, b_or = nearest(a_Sri, b_Sor, share_S)
        found[name_a] = a_ri.reshape(states[0][name_a].shape)
        found[name_b] = b_or.reshape(states[0][name_b].shape)
    return {name: torch.as_tensor(tensor).float() for name, tensor in found.items()}


def nearest(a_Sri: Tensor, b_Sor: Tensor, share_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (r, i) and B (o, r) whose product is nearest to the mean of the sites' products.

    The rows of A are as long as those of a new adapter, so that an adapter whose product is still
    zero goes on learning; the singular values are in B.
    """
    rank = a_Sri.shape[1]
    tall_b = (share_S[:, None, None] * b_Sor).permute(1, 0, 2).flatten(1)  # (o, S r)
    tall_a = a_Sri.flatten(0, 1).T  # (i, S r)
    # The product of two thin matrices is decomposed through their QR factors: it may be large.
    basis_b, corner_b = torch.linalg.qr(tall_b)
    basis_a, corner_a = torch.linalg.qr(tall_a)
    left, value, right = torch.linalg.svd(corner_b @ corner_a.T, full_matrices=False)
    kept = min(rank, len(value))
    length = initial_length()
    b_or = torch.zeros(len(tall_b), rank, dtype=tall_b.dtype)
    b_or[:, :kept] = (basis_b @ left[:, :kept]) * (value[:kept] / length)
    a_ri = torch.zeros(rank, len(tall_a), dtype=tall_a.dtype)
    a_ri[:kept] = length * (basis_a @ right[:kept].T).T
    return a_ri, b_or


def _number(message: Message, name: str) -> float:
    metrics = message.content["metrics"]
    assert isinstance(metrics, MetricRecord)
    value = metrics[name]
    assert isinstance(value, int | float)
    return float(value)
