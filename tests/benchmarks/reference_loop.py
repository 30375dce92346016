"""FedAvg in plain torch and nothing else: the physical limit that fedward is held against.

Same model, patients, batches and order as a run; no messages, no checks, no store, no engine.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Rows = Mapping[str, Tensor]


def reference_loop(
    model: nn.Module,
    sites: Mapping[str, Rows],
    rounds: Sequence[Sequence[str]],
    *,
    batch_size: int,
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    generator_for: Callable[[str, int], torch.Generator],
    epochs: int = 1,
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Return the final state, the mean training loss and the seconds of each round."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, seconds = [], []
    for number, chosen in enumerate(rounds, start=1):
        started = time.perf_counter()
        total = sum(len(sites[site]["label"]) for site in chosen)
        mean: dict[str, Tensor] = {}
        round_loss = 0.0
        for site in sorted(chosen):
            rows, generator = sites[site], generator_for(site, number)
            num_rows = len(rows["label"])
            model.load_state_dict(state)
            optimizer = make_optimizer(list(model.parameters()))
            site_loss = 0.0
            for _ in range(epochs):
                for index in torch.randperm(num_rows, generator=generator).split(batch_size):
                    batch = {key: tensor[index] for key, tensor in rows.items()}
                    loss = functional.cross_entropy(model(batch), batch["label"])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    site_loss += float(loss.detach()) * len(index)
            weight = num_rows / total
            round_loss += weight * site_loss / (num_rows * epochs)
            for name, tensor in model.state_dict().items():
                mean[name] = mean.get(name, 0) + weight * tensor
        state = copy.copy(mean)
        losses.append(round_loss)
        seconds.append(time.perf_counter() - started)
    return state, losses, seconds


def flat(state: Mapping[str, Tensor]) -> np.ndarray:
    """Return all tensors of a state as one vector, in its order."""
    return torch.cat([tensor.reshape(-1) for tensor in state.values()]).numpy()
