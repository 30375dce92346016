"""An observer that names its steps is called after those alone."""

import torch
from torch import Tensor, nn

from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import ShuffleSampler
from fedward.client.training import Event, Parameters, PlainStep, train_locally
from fedward.common.task import Batch, PatientDataset


class Calls:
    """Notes when it was called."""

    def __init__(self) -> None:
        self.steps = {2, 5}
        self.seen: list[tuple[Event, int]] = []

    def __call__(self, event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        self.seen.append((event, step))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: Batch) -> Tensor:
        return batch["features"] * self.weight


def squares(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs**2).flatten()


def test_an_observer_with_steps_sees_start_epochs_and_those_steps() -> None:
    calls, every = Calls(), Calls()
    del every.steps
    train_locally(
        Line(),
        PatientDataset({"features": torch.ones(6, 1), "patient_id": torch.arange(6)}),
        step=PlainStep(squares, OptimizerSettings("sgd", 0.1)),
        sampler=ShuffleSampler(2, epochs=2),
        observers=[calls, every],
        rng=torch.Generator().manual_seed(1),
    )
    assert calls.seen == [("start", 0), ("step", 2), ("epoch", 3), ("step", 5), ("epoch", 6)]
    assert [step for event, step in every.seen if event == "step"] == [1, 2, 3, 4, 5, 6]
