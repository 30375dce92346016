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
