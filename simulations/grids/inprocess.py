"""All sites in this process, one after the other: no Ray, no start-up, easy to debug."""

from collections.abc import Sequence

from flwr.app import Message

from fedward.common.errors import ConfigError
from fedward.simulations.grids.base import SimulationGrid, Worker, WorkerFactory, build


class InProcessGrid(SimulationGrid):
    """A grid that calls the ClientApp of each site directly.

    Args:
        num_threads: torch threads of this process. More than one makes small models slower.
    """

    def __init__(self, num_threads: int = 1) -> None:
        super().__init__()
        self._num_threads = num_threads
        self._worker: Worker | None = None

    def prepare(self, factory: WorkerFactory, node_ids: Sequence[int], *, stacked: bool) -> None:
        """Build the one worker; it stacks its sites by itself where it can."""
        import torch  # not before the first run: the command must start fast

        del stacked
        torch.set_num_threads(self._num_threads)
        self._worker = build(factory)
        self._node_ids = list(node_ids)

    def exchange(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Return all replies.

        Raises:
            ConfigError: a timeout was given; one site after the other cannot keep it.
        """
        if timeout is not None:
            raise ConfigError("sampling.deadline_s: the inprocess engine cannot end a round early")
        assert self._worker is not None, "prepare() comes first"
        return self._worker.handle(messages)

    def close(self) -> None:
        """Drop the worker."""
        self._worker = None
