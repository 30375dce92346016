"""Ditto: a federated model as in FedAvg, and beside it a personal model at each site.

The site minimises F_k(v_k) + (lambda / 2) ||v_k - w||^2 in its own copy v_k, which never leaves
it, and trains the shared w as in FedAvg. Its figures are those of v_k.
Source: Li et al. 2021, arXiv:2012.04221, Algorithm 1.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedward.common.records import DITTO_LAMBDA


class Ditto(FedAvg):
    """FedAvg that also tells the sites how strongly their personal models are pulled to it.

    Args:
        penalty: lambda >= 0; 0 is local training, large values approach the shared model.
    """

    def __init__(self, *, penalty: float = 0.1, **everyone: Any) -> None:
        super().__init__(**everyone)
        self.penalty = penalty

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with lambda in their configuration."""
        config[DITTO_LAMBDA] = self.penalty
        return super().configure_train(server_round, arrays, config, grid)
