"""Local training of one site. The step, the sampler and the observers are injected.

`PlainStep` is one optimiser step on the mean loss of a batch, which may go through the network in
parts (`fedward.client.precision`). A private step keeps the same form.
`fedward.client.stacked` trains many sites at once with the same pieces, to the same result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fedward.client.corrections import Correction, Corrector
from fedward.client.optimizers import Optimizer, OptimizerSettings
from fedward.client.precision import Execution
from fedward.client.sampling import Sampler
from fedward.common.task import Augment, Batch, Loss, PatientDataset

Parameters = Mapping[str, Tensor]

_VERSION = attrgetter("_version")
"""How often a tensor was written to in place."""


@dataclass(frozen=True)
class LocalResult:
    """What a site learned in one round, beside its new parameters.

    Args:
        loss: mean over the rows of all steps, each at the weights before its step; NaN if no
            row was drawn.
        num_steps: optimiser steps taken.
        num_examples: patients that could be drawn.
    """

    loss: float
    num_steps: int
    num_examples: int


class Step(Protocol):
    """Changes a model by one batch. It may hold optimiser state: use one per site and round."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return the batch's mean loss, detached; None if no step was taken."""


Event = Literal["start", "step", "epoch"]


class Observer(Protocol):
    """Looks at a model before it is trained, after every step and at the end of every epoch.

    One that has `steps`, a set of numbers, is not called after other steps.
    """

    def __call__(self, event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        """Look.

        Args:
            event: what has just ended; `start` comes once, with the weights as received.
            epoch: from 0.
            step: optimiser steps taken so far.
            parameters: by name, as they are now; never to be written to, and to be cloned
                where they are kept.
        """


def train_locally(  # noqa: PLR0913 - the seven parts that local training is made of
    model: nn.Module,
    data: PatientDataset,
    *,
    step: Step,
    sampler: Sampler,
    observers: Sequence[Observer] = (),
    rng: torch.Generator,
    augment: Augment | None = None,
) -> LocalResult:
    """Return what was learned; `model` is trained in place.

    Args:
        model: starts with the weights to train from. Where it drops out, the caller seeds torch.
        data: the site's training patients, on the model's device.
        step: what is done with a batch.
        sampler: which patients make up a batch.
        observers: called in order.
        rng: the source of the sampler's randomness, and of `augment`'s.
        augment: changes each batch before the step.
    """
    model.train()
    view = _read_only(model) if observers else {}
    losses: list[Tensor] = []
    weights: list[int] = []
    if observers:
        _notify(observers, "start", (0, 0), view)
    for indices, epoch, is_last_of_epoch in sampler(len(data), rng):
        batch = data.batch(indices)
        if augment is not None:
            batch = augment(batch, rng)
        loss = step(model, batch)
        if loss is not None:
            losses.append(loss)
            weights.append(len(batch["patient_id"]))
        if observers:
            events: tuple[Event, ...] = ("step", "epoch")
            for event in events[: 1 + is_last_of_epoch]:
                _notify(observers, event, (epoch, len(losses)), view)
    return LocalResult(_weighted_mean(losses, weights), len(losses), len(data))


class PlainStep:
    """One optimiser step on the mean loss of a batch; an empty batch is passed over.

    Args:
        loss_per_sample: outputs and batch to (B,) losses.
        optimizer: fresh for every `PlainStep`.
        correction: what the strategy adds to the gradient.
        execution: how the network is run; the caller has prepared the model with it.
    """

    def __init__(
        self,
        loss_per_sample: Loss,
        optimizer: OptimizerSettings,
        correction: Correction | None = None,
        *,
        execution: Execution | None = None,
    ) -> None:
        self.loss_per_sample = loss_per_sample
        self.optimizer = optimizer
        self.correction = correction
        self.execution = None if execution is None or execution.is_plain else execution
        self._bound: BoundOptimizer | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return the mean loss before the step; None for an empty batch.

        Raises:
            ConfigError: the network cannot be compiled.
        """
        if len(batch["patient_id"]) == 0:
            return None
        bound = self._bound
        if bound is None or bound.model is not model:
            bound = self._bound = BoundOptimizer(model, self.optimizer, self.correction)
        # `backward` is quicker than `torch.autograd.grad` by a tenth of a small step, and adds up.
        for parameter in bound.parameters:
            parameter.grad = None
        if self.execution is None:
            loss = self.loss_per_sample(model(batch), batch).mean()
            loss.backward()
        else:
            loss = self._backward(model, batch, self.execution)
        bound.step(_gradients(bound.parameters))
        return loss.detach()

    def _backward(self, model: nn.Module, batch: Batch, execution: Execution) -> Tensor:
        """Return the mean loss, with its gradient added up over the parts of the batch.

        Every row counts 1 / B, in whichever part it is: a last, smaller part weighs less.
        """
        num_rows = len(batch["patient_id"])
        losses = []
        for part in execution.parts(batch):
            outputs = execution.forward(model, part)
            loss = self.loss_per_sample(outputs, part).sum() / num_rows
            with execution.explained():
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()


class BoundOptimizer:
    """The parts of a step that belong to one model: its trained weights and their optimiser."""

    def __init__(
        self, model: nn.Module, settings: OptimizerSettings, correction: Correction | None
    ) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.model = model
        self.parameters = list(named.values())
        self.optimizer = Optimizer(settings, self.parameters)
        self.correct = None if correction is None else _corrector(correction, named)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Correct the gradients and step along them."""
        if self.correct is not None:
            gradients = self.correct(self.parameters, gradients)
        self.optimizer.step(gradients)


def _gradients(parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradient of each parameter; 0 where the batch did not reach it."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def _corrector(correction: Correction, named: Parameters) -> Corrector:
    given = correction.shared.unflatten(correction.vector)
    terms = [given[name].to(tensor) if name in given else None for name, tensor in named.items()]
    return Corrector(correction, terms)


def _read_only(model: nn.Module) -> Parameters:
    return MappingProxyType({name: p.detach() for name, p in model.named_parameters()})


def _notify(
    observers: Sequence[Observer],
    event: Event,
    moment: tuple[int, int],
    view: Parameters,
) -> None:
    due = [observer for observer in observers if _is_due(observer, event, moment[1])]
    if not due:  # looking at the versions would take 4 % of a small step
        return
    before = list(map(_VERSION, view.values()))
    for observer in due:
        observer(event, *moment, view)
    if list(map(_VERSION, view.values())) != before:
        raise RuntimeError("an observer wrote to the parameters; it may only look at them")


def _is_due(observer: Observer, event: Event, step: int) -> bool:
    steps = getattr(observer, "steps", None)
    return event != "step" or steps is None or step in steps


def _weighted_mean(losses: Sequence[Tensor], weights: Sequence[int]) -> float:
    if not sum(weights):
        return float("nan")
    # One transfer at the end: reading each loss would make a GPU wait at every step.
    values = torch.stack(list(losses)).double().cpu()
    weight = torch.tensor(weights, dtype=torch.float64)
    return float((values * weight).sum() / weight.sum())
