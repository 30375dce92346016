"""Runs to be audited, and faults that are planted in their training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedward.client.privacy import account, ghost
from fedward.client.privacy.step import Mechanism
from fedward.common.config.loader import load_run_config
from fedward.common.task import Split
from fedward.simulations.cli import find_config
from fedward.simulations.federation import Federation

PRIVATE = (
    "engine.name=inprocess", "baselines=[]", "repeat=null", "data.statistics=schema",
    "privacy.mode=dp-sgd", "privacy.delta=0.00001", "privacy.max_grad_norm=1.0",
    "rounds=20", "local.batch_size=64",
)  # fmt: skip
SITE = "site-2"
"""The smallest."""
Plant = Callable[[pytest.MonkeyPatch], None]


def private_run(*overrides: str, epsilon: float = 10.0) -> Federation:
    """Return a federation whose sites each promise `epsilon` at delta 1e-5."""
    return run_of("quickstart", *PRIVATE, f"privacy.epsilon={epsilon}", *overrides)


def run_of(name: str, *overrides: str) -> Federation:
    path = find_config(name)
    config = load_run_config(path, overrides).config
    split = Split(config.seed, config.data.test_fraction)
    return Federation(config, "federated", split, path.parent)


def a_27th_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def deviation(mechanism: Mechanism) -> float:
        return mechanism.noise_multiplier * mechanism.max_grad_norm / 27

    monkeypatch.setattr(Mechanism, "deviation", property(deviation))


def no_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    def factors(norm_G: Tensor, max_norm: Tensor | float) -> Tensor:
        del max_norm
        return torch.ones_like(norm_G)

    monkeypatch.setattr(ghost, "clip_factors", factors)


def an_account_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the usual fault: each round is accounted as if it were the first."""
    monkeypatch.setattr(account, "recall", lambda site, instruction, name: None)
