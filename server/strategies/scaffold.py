"""SCAFFOLD: control variates that correct the drift of sites with unlike patients.

A site steps along g - c_i + c and returns, beside its model, the change of its own control
variate c_i. The server keeps c.
Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1 (option II for c_i).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedward.common.records import CONTROL, PARAMETERS, array_record, arrays_of, record_of


class Scaffold(FedAvg):
    """FedAvg with a control variate under the key prefix `control.`, split off here.

    The models are averaged by the number of examples, as everywhere in fedward. But c is the plain
    mean of the c_i (eq. 5), and where they settle every site steps along c. So, unlike FedAvg,
    it minimises the mean of the sites' losses with each site counting the same, as in the paper.

    Args:
        num_sites: N of the paper: all sites of the federation.
        server_learning_rate: eta_g >= 0; 1 takes the average itself.
    """

    def __init__(
        self, *, num_sites: int, server_learning_rate: float = 1.0, **everyone: float
    ) -> None:
        super().__init__(**everyone)  # type: ignore[arg-type] # fractions and minimums only
        self.num_sites = num_sites
        self.server_learning_rate = server_learning_rate
        self.control: npt.NDArray[np.float32] | None = None
        self.sent: npt.NDArray[np.float32] | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return FedAvg's messages with c beside the model."""
        self.sent = arrays[PARAMETERS].numpy()
        if self.control is None:
            self.control = np.zeros_like(self.sent)
        both = record_of(dict(arrays) | dict(array_record({CONTROL: self.control})))
        return super().configure_train(server_round, both, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new model, and move c by (|S| / N) times the mean change (eq. 5)."""
        replies = list(replies)
        if not replies:
            return None, None
        assert self.control is not None
        assert self.sent is not None
        changes_SD = np.stack([arrays_of(m.content)[CONTROL].numpy() for m in replies])
        for message in replies:
            message.content = _without_control(message.content)
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.control = self.control + changes_SD.sum(axis=0) / np.float32(self.num_sites)
        if arrays is not None and self.server_learning_rate != 1.0:
            step = arrays[PARAMETERS].numpy() - self.sent
            moved = self.sent + np.float32(self.server_learning_rate) * step
            arrays = array_record({PARAMETERS: moved})
        return arrays, metrics


def _without_control(content: RecordDict) -> RecordDict:
    arrays: dict[str, Array] = {
        key: array for key, array in arrays_of(content).items() if not key.startswith("control.")
    }
    return RecordDict({"arrays": record_of(arrays), "metrics": content["metrics"]})
