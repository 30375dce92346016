"""What both simulation grids share: Flower's `Grid` interface over a worker factory.

A worker holds the sites of one process and answers their messages with the real ClientApp. A
grid is told how to build workers (`prepare`), and can be told anew: the engine outlives the run,
so that repetitions and baselines do not pay for its start again.
"""

import gc
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedward.common.flower import assume_server_identity, stamp


class Worker(Protocol):
    """Answers the messages of the sites that it holds, in the order given."""

    def handle(self, messages: Sequence[Message]) -> list[Message]:
        """Return one reply per message; a site's error becomes an error reply."""


WorkerFactory = Callable[[], Worker]
"""Must be picklable: Ray's actors call it in their own process."""


def build(factory: WorkerFactory) -> Worker:
    """Return a new worker."""
    _set_aside()
    return factory()


@cache
def _set_aside() -> None:
    """Take what is alive before the first worker, modules above all, out of collections of garbage.

    With torch loaded a full one takes 60 to 400 ms, and Flower's QFedAvg asks for two per reply.
    """
    gc.collect()
    gc.freeze()


class SimulationGrid(Grid):
    """A `Grid` over workers of this machine or cluster. Synchronous: push and pull do not apply."""

    honours_deadline = False
    """Whether `send_and_receive` returns at its timeout."""
    ready_after_s: float
    """Seconds from the start of the engine until its first workers were ready."""

    def __init__(self) -> None:
        self._node_ids: list[int] = []
        self.ready_after_s = 0.0
        assume_server_identity(run_id=1)

    @abstractmethod
    def prepare(self, factory: WorkerFactory, node_ids: Sequence[int], *, stacked: bool) -> None:
        """Build the workers of the next run.

        Args:
            factory: builds one worker; picklable.
            node_ids: the nodes that exist in this run.
            stacked: give each worker its share of a round at once, not one site at a time.
        """

    @abstractmethod
    def close(self) -> None:
        """End every process that this grid started."""

    @abstractmethod
    def exchange(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Return the replies that came before the timeout, in any order."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies to `messages`; with a timeout, those that came in time."""
        return self.exchange([stamp(message) for message in messages], timeout)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of this run."""
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes of this run as Flower's records."""
        return [NodeInfo(node_id=node_id) for node_id in self._node_ids]

    def set_run(self, run: Run) -> None:
        """Refuse: a simulation's run is its configuration, not a SuperLink's record."""
        raise TypeError("a simulation grid has no SuperLink run")

    @property
    def run(self) -> Run:
        """Refuse, as `set_run`."""
        raise TypeError("a simulation grid has no SuperLink run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new instruction message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: use `send_and_receive`."""
        raise TypeError("a simulation grid exchanges messages with send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: use `send_and_receive`."""
        raise TypeError("a simulation grid exchanges messages with send_and_receive")
