"""The Ray actor: one process that holds a worker. Imports torch when it is created."""

import os
from dataclasses import dataclass

from flwr.app import Message
from flwr.app.message import ArrayRecord

from fedward.simulations.grids.base import Worker, WorkerFactory, build


@dataclass
class Letter:
    """A message whose ArrayRecords travel apart, as places in a shared list."""

    message: Message
    arrays: dict[str, int]

    def open(self, shared: list[ArrayRecord]) -> Message:
        """Return the whole message."""
        for key, place in self.arrays.items():
            self.message.content[key] = shared[place]
        return self.message


class SiteActor:
    """Answers letters with the worker of the current run."""

    def __init__(self, num_threads: int) -> None:
        import torch  # while the driver does the same

        torch.set_num_threads(num_threads)
        self._worker: Worker | None = None

    def prepare(self, factory: WorkerFactory) -> None:
        """Build the worker of the next run."""
        self._worker = build(factory)

    def handle(self, shared: list[ArrayRecord], letters: list[Letter]) -> list[Message]:
        """Return one reply per letter."""
        assert self._worker is not None, "prepare() comes first"
        return self._worker.handle([letter.open(shared) for letter in letters])

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()
