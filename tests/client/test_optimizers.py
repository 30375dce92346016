"""The optimisers, against torch's classes."""

import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from fedward.client.optimizers import Optimizer, OptimizerSettings
from fedward.common.config.run import LocalConfig
from fedward.common.errors import ConfigError
from tests.client.plain_training import torch_optimizer

OPTIMIZERS = [
    OptimizerSettings("sgd", 0.1),
    OptimizerSettings("sgd", 0.1, momentum=0.9),
    OptimizerSettings("sgd", 0.1, momentum=0.5, weight_decay=0.01),
    OptimizerSettings("adam", 0.01),
    OptimizerSettings("adam", 0.01, weight_decay=0.01),
    OptimizerSettings("adamw", 0.01, weight_decay=0.1),
    OptimizerSettings("adam", 0.01, betas=(0.5, 0.9)),
]


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_the_optimiser_equals_torchs_class(settings: OptimizerSettings) -> None:
    theirs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    parameters = [parameter.detach().clone() for parameter in theirs.parameters()]
    optimizer, reference = Optimizer(settings, parameters), torch_optimizer(settings, theirs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=generator) for p in parameters]
        optimizer.step(gradients)
        for parameter, gradient in zip(theirs.parameters(), gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    for ours, parameter in zip(parameters, theirs.parameters(), strict=True):
        np.testing.assert_allclose(ours, parameter.detach(), atol=1e-6)


@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_a_transposed_gradient_moves_the_right_weights(settings: OptimizerSettings) -> None:
    # torch's fused kernels ignore strides: without a copy this fails.
    gradient = torch.arange(6.0).reshape(3, 2).t()
    moved = []
    for given in (gradient, gradient.contiguous()):
        weights = torch.ones(2, 3)
        optimizer = Optimizer(settings, [weights])
        optimizer.step([given])
        optimizer.step([given])
        moved.append(weights)
    torch.testing.assert_close(moved[0], moved[1])


def test_training_does_not_import_torchs_compiler() -> None:
    # It costs 1.4 s in every worker.
    code = """if True:
        import sys, torch
        from fedward.client.optimizers import Optimizer, OptimizerSettings
        for name in ("sgd", "adam", "adamw"):
            Optimizer(OptimizerSettings(name, 0.1), [torch.ones(2)]).step([torch.ones(2)])
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_momentum_is_refused_where_it_would_be_ignored() -> None:
    local = LocalConfig(epochs=1, batch_size=1, optimizer="adam", learning_rate=0.1, momentum=0.9)
    with pytest.raises(ConfigError, match=r"local\.momentum: adam does not use it"):
        OptimizerSettings.of(local)


def test_betas_come_from_the_run() -> None:
    local = LocalConfig(
        epochs=1, batch_size=1, optimizer="adam", learning_rate=0.1, betas=(0.9, 0.99)
    )
    assert OptimizerSettings.of(local).betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("optimizer", "betas", "why"),
    [("sgd", (0.9, 0.99), "sgd does not use them"), ("adam", (0.9, 1.0), "below 1")],
)
def test_betas_that_cannot_be_used_are_refused(
    optimizer: Literal["sgd", "adam"], betas: tuple[float, float], why: str
) -> None:
    with pytest.raises(ConfigError, match=rf"local\.betas: .*{why}"):
        OptimizerSettings(optimizer, 0.1, betas=betas)
