"""Turns a strategy's messages into bound instructions, and shows it only the selected sites."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedward.common.flower import Records, array_hash, num_bytes
from fedward.common.records import PARAMETERS, Binding, array_record, arrays_of
from fedward.common.task import Statistics
from fedward.server.history import Phase
from fedward.server.plan import Plan
from fedward.server.validation import Sent


@dataclass(frozen=True)
class Round:
    """What all instructions of one exchange have in common."""

    number: int
    phase: Phase
    statistics: Statistics | None


def bind(message: Message, plan: Plan, this: Round) -> Sent:
    """Give `message` a nonce and hashes of its own, and return what its answer must look like.

    A strategy gives all its messages one shared RecordDict; each gets its own here.
    """
    content = message.content
    arrays = arrays_of(content)
    site = plan.sites[message.metadata.dst_node_id]
    binding = Binding(
        run_key=plan.run_key,
        round_number=this.number,
        nonce=secrets.token_hex(16),
        model_hash=array_hash(arrays[PARAMETERS]),
        manifest_hash=plan.manifest_hash,
    )
    records = {"arrays": arrays, "config": content["config"], "binding": binding.to_record()}
    if plan.anchors is not None:
        records |= plan.anchors.records(site)
    size = sum(num_bytes(array) for array in arrays.values())
    if this.statistics is not None:
        records["statistics"] = array_record({"sums": this.statistics})
        size += this.statistics.nbytes
    message.content = Records(records)
    message.metadata.group_id = str(this.number)  # shown in Flower's and the sites' logs
    trains = this.phase == "train"
    return Sent(site, binding, arrays, plan.cohort_bounds[site], trains, size)


class SelectedSites(Grid):
    """A grid on which a strategy sees only the nodes of the sites that were sampled."""

    def __init__(self, grid: Grid, node_ids: Sequence[int]) -> None:
        self.grid = grid
        self.node_ids = list(node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the selected nodes."""
        return self.node_ids

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the grid knows of the selected nodes."""
        return [node for node in self.grid.get_nodes() if node.node_id in set(self.node_ids)]

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The grid's run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        return self.grid.send_and_receive(messages, timeout=timeout)
