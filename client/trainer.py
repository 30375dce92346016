"""What a site does with an instruction: train, or evaluate, and say what it found.

One trainer serves all sites of a process with one model, whose tensors are overwritten for each
site. What is not shared, personal models (Ditto) and control variates (SCAFFOLD) come from the
site's store and go back to it; nothing of them leaves.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.site import Site
from fedward.common.config.run import LocalConfig
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seed_for, seeded_global_torch, torch_generator
from fedward.common.records import CONTROL, PARAMETERS, Instruction, Update
from fedward.common.task import Batch, PatientDataset, Task
from fedward.common.vectors import Vector

CHUNK = 4096


class Trainer(Protocol):
    """Answers one instruction for one site."""

    def train(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's new vectors."""

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's figures of the received model."""


@dataclass(frozen=True)
class TrainerSettings:
    """The part of a run that a trainer needs."""

    local: LocalConfig
    seed: int
    run_key: str


class LocalTrainer:
    """Trains and evaluates one site at a time.

    Args:
        task: losses and figures.
        model: the process's one model; its tensors are overwritten for every site.
        shared: what travels.
        settings: local epochs, optimiser, seed.
    """

    def __init__(
        self, task: Task, model: nn.Module, shared: ParameterSet, settings: TrainerSettings
    ) -> None:
        self.task = task
        self.model = model
        self.shared = shared
        self.settings = settings
        # What stays at a site starts alike everywhere: as the model was initialised.
        self._initial = {
            name: tensor.clone()
            for name, tensor in model.state_dict().items()
            if name not in set(shared.names)
        }
        self._dropout = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
