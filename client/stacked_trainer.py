"""The trainer that computes all sites of a process at once, and hands out the results one by one.

Every site still gets its own message, answered by the real client app; `prefill` only sees to it
that the answer is ready. What cannot be stacked - Ditto's second model, a loss of the received
model, a site whose data cannot be read - is left to the plain trainer underneath.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward.client.corrections import Correction, fedprox, scaffold
from fedward.client.precision import Execution
from fedward.client.privacy.account import Account
from fedward.client.privacy.stack import PrivateSite
from fedward.client.privacy.training import PrivateRound
from fedward.client.report_form import PRIVACY
from fedward.client.site import Site
from fedward.client.site_memory import recall, remember
from fedward.client.stacked import StackedResult, can_stack, train_stacked
from fedward.client.trainer import NOT_TOLD, LocalTrainer, TrainerSettings
from fedward.client.training import PlainStep
from fedward.common.errors import FedwardError
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import torch_generator
from fedward.common.records import (
    CONTROL,
    DITTO_LAMBDA,
    LOSS_OF_RECEIVED_MODEL,
    PARAMETERS,
    PROXIMAL_MU,
    Instruction,
    Update,
)
from fedward.common.task import PatientDataset, Task

Job = tuple[Site, Instruction, PatientDataset, PrivateRound | None]
Floats = npt.NDArray[np.float32]


def make_trainer(
    task: Task,
    model: nn.Module,
    shared: ParameterSet,
    settings: TrainerSettings,
    *,
    account: Account | None = None,
) -> LocalTrainer:
    """Return a trainer that stacks sites if model and settings allow it, else one that does not."""
    plain = Execution.of(settings.local).is_plain
    kind = StackedTrainer if plain and can_stack(model) else LocalTrainer
    return kind(task, model, shared, settings, account=account)


class StackedTrainer(LocalTrainer):
    """A `LocalTrainer` whose `prefill` trains the sites of all jobs as one stacked model."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        shared: ParameterSet,
        settings: TrainerSettings,
        *,
        account: Account | None = None,
    ) -> None:
        super().__init__(task, model, shared, settings, account=account)
        self._full = ParameterSet.of(model)
        self._initial_vector = self._full.flatten(model.state_dict())
        self._shared_columns = _columns(shared, self._full)
        self._ready: dict[tuple[str, str], Update] = {}

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        """Train the sites of `jobs` at once, where there are several that can be stacked."""
        self._ready.clear()
        stackable = [job for job in map(self._with_data, jobs) if job is not None]
        if len(stackable) < 2:
            return
        started = time.perf_counter()
        paid = [private for *_, private in stackable]
        begun = [self._begin_watch(data) for _, _, data, _ in stackable]
        watches = [watch for watch in begun if watch is not None]  # of all sites, or of none
        result = train_stacked(
            self.model,
            [data if own is None else own.patients for _, _, data, own in stackable],
            self._start(stackable),
            step=PlainStep(
                self.task.loss_per_sample, self.optimizer, self._stacked_correction(stackable)
            ),
            sampler=self.sampler,
            rngs=[self._rng(site, instruction) for site, instruction, *_ in stackable],
            watches=watches,
            private=[PrivateSite(own.mechanism, own.noise) for own in paid if own is not None],
        )
        watched = [
            self._end_watch(site, instruction, watch)
            for (site, instruction, *_), watch in zip(stackable, begun, strict=True)
        ]
        seconds = (time.perf_counter() - started) / len(stackable)
        tallies = result.tallies or [{}] * len(paid)
        told = [
            {} if private is None else {PRIVACY: private.told(seen)}
            for private, seen in zip(paid, tallies, strict=True)
        ]
        self._hand_out(
            stackable,
            result,
            [{"seconds": seconds, **a, **b} for a, b in zip(watched, told, strict=True)],
        )

    def train(self, site: Site, instruction: Instruction) -> Update:
        """Return the result that is ready, or train the site now."""
        ready = self._ready.pop((site.site_id, instruction.binding.nonce), None)
        return ready if ready is not None else super().train(site, instruction)

    def _start(self, jobs: Sequence[Job]) -> Floats:
        """Return the starting weights: one vector for all sites, or one row for each."""
        first = jobs[0][1].vectors[PARAMETERS]
        same = all(instruction.vectors[PARAMETERS] is first for _, instruction, *_ in jobs)
        if same and not self._initial and self._is_whole:
            return first
        start_SD = np.tile(self._initial_vector, (len(jobs), 1))
        for row, (site, instruction, *_) in zip(start_SD, jobs, strict=True):
            local = recall(site, instruction, "local") if self._initial else None
            if local is not None:
                for name, columns in self._local_columns.items():
                    row[columns] = local[name].reshape(-1)
            row[self._shared_columns] = instruction.vectors[PARAMETERS]
        return start_SD

    @property
    def _is_whole(self) -> bool:
        return self.shared.names == self._full.names

    @property
    def _local_columns(self) -> dict[str, npt.NDArray[np.int64]]:
        return {
            name: columns
            for name, columns in _columns_by_name(self._full).items()
            if name in self._initial
        }

    def _stacked_correction(self, jobs: Sequence[Job]) -> Correction | None:
        """Return the strategy's correction with one row per site."""
        instruction = jobs[0][1]
        if mu := instruction.options.get(PROXIMAL_MU):
            received = np.stack([job[1].vectors[PARAMETERS] for job in jobs])
            return fedprox(self.shared, received, mu=float(mu))
        if CONTROL in instruction.vectors:
            control = np.stack([job[1].vectors[CONTROL] for job in jobs])
            own = np.stack([self._site_control(site, asked) for site, asked, *_ in jobs])
            return scaffold(self.shared, control, own)
        return None

    def _rng(self, site: Site, instruction: Instruction) -> torch.Generator:
        return torch_generator(
            self.settings.seed,
            purpose="batches",
            site=site.site_id,
            round_number=instruction.binding.round_number,
        )

    def _hand_out(
        self, jobs: Sequence[Job], result: StackedResult, reports: Sequence[dict[str, Any]]
    ) -> None:
        """Make each site's update ready, and keep what stays at the site."""
        shared_SD = result.vectors_SD
        if not self._is_whole:
            shared_SD = shared_SD[:, self._shared_columns]
        for row, (site, instruction, data, _) in enumerate(jobs):
            found = result.results[row]
            vectors = {PARAMETERS: shared_SD[row]}
            if CONTROL in instruction.vectors:
                vectors[CONTROL] = self._move_control(
                    site, instruction, shared_SD[row], found.num_steps
                )
            if self._initial:
                named = self._full.unflatten(result.vectors_SD[row])
                kept = {name: named[name].numpy() for name in self._initial}
                remember(site, instruction, "local", kept)
            report = {**reports[row], "num_steps": found.num_steps}
            key = (site.site_id, instruction.binding.nonce)
            loss = NOT_TOLD if PRIVACY in report else found.loss
            self._ready[key] = Update(len(data), loss, vectors, report)

    def _with_data(self, job: tuple[Site, Instruction]) -> Job | None:
        """Return the job with its patients; None if it is for the plain trainer."""
        site, instruction = job
        if DITTO_LAMBDA in instruction.options or LOSS_OF_RECEIVED_MODEL in instruction.options:
            return None
        try:
            data = site.data(instruction.statistics).train
            private = self._begin_private(site, instruction, data)
        except (FedwardError, OSError):
            return None  # it is read again, and reported, when the site's own message is answered
        return site, instruction, data, private


def _columns_by_name(whole: ParameterSet) -> dict[str, npt.NDArray[np.int64]]:
    ends = np.cumsum(whole.sizes)
    return {
        name: np.arange(end - size, end)
        for name, size, end in zip(whole.names, whole.sizes, ends, strict=True)
    }


def _columns(part: ParameterSet, whole: ParameterSet) -> npt.NDArray[np.int64]:
    """Return the places of the values of `part` in a wire vector of `whole`."""
    by_name = _columns_by_name(whole)
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *(by_name[name] for name in part.names)])
