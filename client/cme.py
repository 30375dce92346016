"""Watches how the weights of a site's layers move within one round (CME), while it trains.

The round begins at the model as received, so that the jump of the aggregation is no part of it
(Kumar et al. 2025, eq. 1, where i starts at 2). What is computed from the snapshots, and what it
means, is in `fedward.common.monitoring`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import nn

from fedward.client.sampling import RoundSampler
from fedward.client.training import Event, Parameters
from fedward.common.config.monitor import CmeConfig
from fedward.common.monitoring.elements import Form
from fedward.common.monitoring.layers import WatchedLayer, watched_layers
from fedward.common.monitoring.stream import CmeStream, LayerRound

STORED = "cme"
"""Name of the last rounds' maps in a site's store."""
FEWEST_SNAPSHOTS = 2
Maps = Mapping[str, npt.NDArray[Any]]


def snapshot_steps(num_steps: int, steps_per_epoch: int, config: CmeConfig) -> tuple[int, ...]:
    """Return the steps of a round after which the weights are looked at, in rising order.

    Those that end an epoch where there are `config.snapshots` of them; or every
    `config.every_steps`; else as many as there should be, evenly over the round.

    Args:
        num_steps: of the round; of fewer steps than snapshots, each is looked at.
        steps_per_epoch: of one pass over the patients.
        config: `monitor.cme`.
    """
    if num_steps == 0:
        return ()
    every = config.every_steps
    fewest = config.snapshots if every is None else FEWEST_SNAPSHOTS
    stride = steps_per_epoch if every is None else every
    steps = range(stride, num_steps + 1, stride)
    if len(steps) >= fewest:
        return tuple(steps)
    fewest = min(fewest, num_steps)
    return tuple(-(-number * num_steps // fewest) for number in range(1, fewest + 1))


@dataclass(frozen=True)
class Watch:
    """Which layers of a model are looked at, and when.

    Args:
        layers: their names and shapes.
        config: `monitor.cme`.
        sampler: what makes up the steps of a round.
    """

    layers: tuple[WatchedLayer, ...]
    config: CmeConfig
    sampler: RoundSampler

    @classmethod
    def of(cls, model: nn.Module, config: CmeConfig, sampler: RoundSampler) -> Self:
        """Return the watch of the layers of `model` that `config` names.

        Raises:
            ConfigError: no layer has such a name, or too many have.
        """
        return cls(tuple(watched_layers(model, config.layers)), config, sampler)

    def begin(self, num_patients: int) -> "RoundWatch":
        """Return what watches one round of a site with so many training patients."""
        steps = snapshot_steps(
            self.sampler.num_steps(num_patients),
            self.sampler.steps_per_epoch(num_patients),
            self.config,
        )
        return RoundWatch(self.layers, self.config.form, steps)


class RoundWatch:
    """Looks at the layers of one site during one round: an `Observer` of the training loop.

    Args:
        layers: what to look at; one that the site does not have is left out.
        form: of the memory elements.
        steps: after which.
    """

    def __init__(
        self, layers: tuple[WatchedLayer, ...], form: Form, steps: tuple[int, ...]
    ) -> None:
        self.steps = frozenset(steps)
        self._layers = layers
        self._form: Form = form
        self._streams: dict[str, CmeStream] = {}
        self._last_step = 0

    def __call__(self, event: Event, epoch: int, step: int, parameters: Parameters) -> None:
        """Look at the weights as received, and after those steps that are on the list."""
        del epoch
        if event != "epoch":
            self.look(step, parameters)

    def look(self, step: int, parameters: Parameters) -> None:
        """Take a snapshot if `step` is on the list; step 0 are the weights as received."""
        if step == 0 and not self._streams:
            self._streams = {
                layer.name: CmeStream(
                    layer.matrix(parameters[layer.name]), self._form, name=layer.name
                )
                for layer in self._layers
                if layer.name in parameters
            }
        elif step in self.steps and step > self._last_step:
            self._last_step = step
            for layer in self._layers:
                if layer.name in self._streams:
                    self._streams[layer.name].add(layer.matrix(parameters[layer.name]))

    def finish(self, previous: Maps) -> dict[str, LayerRound]:
        """Return the round of each layer; none where no step was taken.

        Args:
            previous: the maps of the round that the site trained before this one, by layer.
        """
        if self._last_step == 0:
            return {}
        return {name: stream.finish(previous.get(name)) for name, stream in self._streams.items()}


def maps_of(rounds: Mapping[str, LayerRound]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the covariance maps by layer, to be kept until the next round."""
    return {name: layer.map_PP for name, layer in rounds.items()}


def figures_of(rounds: Mapping[str, LayerRound]) -> dict[str, dict[str, float]]:
    """Return the figures by layer; a layer of which none is defined is left out."""
    found = {name: layer.figures.to_json() for name, layer in rounds.items()}
    return {name: figures for name, figures in found.items() if figures}
