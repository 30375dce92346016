"""Sites on Ray actors that live for the whole run and keep model and data.

What several messages share - the global model above all - is put once per round into Ray's
object store. An actor is given a site that it has trained before where one is waiting. An actor
that dies is replaced and its sites of that round are tried once more; one still busy at the
deadline is replaced too, and its late replies are never seen.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from flwr.app import Error, Message, RecordDict
from flwr.app.message import ArrayRecord
from ray.exceptions import RayActorError, RayError

from fedward.common.flower import with_content
from fedward.simulations.grids.actor import Letter, SiteActor
from fedward.simulations.grids.base import SimulationGrid, WorkerFactory
from fedward.simulations.grids.start_ray import RayOptions, start_ray

WORKER_FAILED = 2
TRIES = 2


@dataclass
class _Parcel:
    """Letters that go to one actor together."""

    letters: list[Letter]
    messages: list[Message]
    tries: int = 0


@dataclass
class _Slot:
    """One actor, and what it is doing."""

    actor: Any
    busy_with: _Parcel | None = None
    seen: set[int] = field(default_factory=set)


class RayGrid(SimulationGrid):
    """A grid over `options.num_actors` Ray actors.

    The constructor starts Ray and the actors without waiting for them, so that this process can
    import torch meanwhile.
    """

    honours_deadline = True

    def __init__(self, options: RayOptions) -> None:
        super().__init__()
        self._started = time.perf_counter()
        self.options = options
        self._owns_ray = start_ray(options)
        self._slots = [_Slot(self._new_actor()) for _ in range(options.num_actors)]
        self._factory: WorkerFactory | None = None
        self._stacked = False

    def prepare(self, factory: WorkerFactory, node_ids: Sequence[int], *, stacked: bool) -> None:
        """Build a worker in each actor, and wait until all are ready."""
        self._factory = factory
        self._node_ids = list(node_ids)
        self._stacked = stacked
        for slot in self._slots:
            slot.seen.clear()
        ray.get([slot.actor.prepare.remote(factory) for slot in self._slots])
        self.ready_after_s = self.ready_after_s or time.perf_counter() - self._started

    def exchange(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Return the replies that came before the timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        letters, shared = _pack(messages)
        reference = ray.put(shared)
        queue = self._parcels(messages, letters)
        running: dict[Any, _Slot] = {}
        replies: list[Message] = []
        while queue or running:
            for slot in self._slots:
                if slot.busy_with is None and queue:
                    slot.busy_with = _next_parcel(queue, slot)
                    slot.seen |= {m.metadata.dst_node_id for m in slot.busy_with.messages}
                    answer = slot.actor.handle.remote(reference, slot.busy_with.letters)
                    running[answer] = slot
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = ray.wait(list(running), num_returns=1, timeout=remaining)
            if not done:
                self._abandon(running)
                break
            slot = running.pop(done[0])
            parcel, slot.busy_with = slot.busy_with, None
            assert parcel is not None
            try:
                replies += ray.get(done[0])
            except RayActorError as error:
                self._replace(slot)
                replies += _try_again(parcel, queue, error)
            except RayError as error:
                replies += _given_up(parcel, f"its worker failed ({type(error).__name__})")
        return replies

    def close(self) -> None:
        """End the actors, and Ray itself if it was started here."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []
        if self._owns_ray:
            ray.shutdown()

    def actor_pids(self) -> list[int]:
        """Return the process ids of the actors."""
        return list(ray.get([slot.actor.pid.remote() for slot in self._slots]))

    def _new_actor(self) -> Any:
        remote = ray.remote(num_cpus=1, num_gpus=self.options.gpus_per_actor)(SiteActor)
        return remote.remote(self.options.threads_per_actor)

    def _parcels(self, messages: list[Message], letters: list[Letter]) -> deque[_Parcel]:
        """Return single sites, or one even share per actor where sites are stacked."""
        size = -(-len(messages) // len(self._slots)) if self._stacked else 1
        starts = range(0, len(messages), max(size, 1))
        return deque(_Parcel(letters[i : i + size], messages[i : i + size]) for i in starts)

    def _replace(self, slot: _Slot) -> None:
        slot.actor = self._new_actor()
        slot.seen.clear()
        slot.actor.prepare.remote(self._factory)

    def _abandon(self, running: dict[Any, _Slot]) -> None:
        for slot in running.values():
            ray.kill(slot.actor)
            slot.busy_with = None
            self._replace(slot)


def _pack(messages: list[Message]) -> tuple[list[Letter], list[ArrayRecord]]:
    """Return the messages without their arrays, and each distinct ArrayRecord once."""
    shared: list[ArrayRecord] = []
    places: dict[int, int] = {}
    letters = []
    for message in messages:
        arrays: dict[str, int] = {}
        small = RecordDict()
        for key, record in message.content.items():
            if isinstance(record, ArrayRecord):
                if id(record) not in places:
                    places[id(record)] = len(shared)
                    shared.append(record)
                arrays[key] = places[id(record)]
            else:
                small[key] = record
        letters.append(Letter(with_content(message, small), arrays))
    return letters, shared


def _next_parcel(queue: deque[_Parcel], slot: _Slot) -> _Parcel:
    """Take the first parcel whose sites this actor has at hand, else the first of all."""
    for index, parcel in enumerate(queue):
        if any(m.metadata.dst_node_id in slot.seen for m in parcel.messages):
            del queue[index]
            return parcel
    return queue.popleft()


def _try_again(parcel: _Parcel, queue: deque[_Parcel], error: RayActorError) -> list[Message]:
    """Queue the sites of a dead actor one by one; report those that had their last try."""
    if parcel.tries + 1 < TRIES:
        for letter, message in zip(parcel.letters, parcel.messages, strict=True):
            queue.append(_Parcel([letter], [message], parcel.tries + 1))
        return []
    return _given_up(parcel, f"its worker died {TRIES} times ({type(error).__name__})")


def _given_up(parcel: _Parcel, reason: str) -> list[Message]:
    return [Message(Error(WORKER_FAILED, reason), reply_to=m) for m in parcel.messages]
