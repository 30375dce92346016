"""q-FedAvg: Flower's class, told to weigh sites by the loss of the model that they received.

Source: Li et al. 2020, arXiv:1905.10497, Algorithm 2: F_k is evaluated at w^t, not after training.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import QFedAvg

from fedward.common.records import LOSS_OF_RECEIVED_MODEL


class QFedAvgOnReceivedModel(QFedAvg):
    """Flower's QFedAvg whose messages ask for the training loss of the received model."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return Flower's messages with that request in their configuration."""
        config[LOSS_OF_RECEIVED_MODEL] = True
        return super().configure_train(server_round, arrays, config, grid)
