"""What the coordinator sees of training: how much each site moves the model, and who stands still.

Composed, not built in: the round loop shows the monitor each round (`server.rounds`), and the
monitor adds to the history's lines. All that it remembers of the sites comes from those lines, so
that a run that is resumed decides what it would have decided.

Saturation is advisory and un-latches: a layer that moves again takes the mark back. Influence is
not quality: a site with wrong labels may have the most.

Shapes: D parameters.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.common.config.monitor import StopConfig
from fedward.common.flower import view
from fedward.common.monitoring.saturation import (
    Thresholds,
    federation_saturated,
    site_saturated,
    thresholds_for,
)
from fedward.common.monitoring.updates import update_figures
from fedward.common.records import PARAMETERS, arrays_of
from fedward.common.vectors import Vector
from fedward.server.history import Entry
from fedward.server.plan import Plan
from fedward.server.stopping import choose_resting
from fedward.server.validation import Accepted

RESTS = "saturated: rests"
CHUNK = 1 << 16
"""Parameters at a time: a copy of a large model in float64 would not fit beside it."""
Figures = Mapping[str, float]


@dataclass
class _Watched:
    """What is known of one site."""

    rounds: deque[Mapping[str, Figures]]
    """The CME of its last rounds, since it last rested or sent none."""
    is_saturated: bool | None = None
    """After the last of them; None: it never sent any."""
    last_trained: int = 0
    num_rests: int = 0
    """Rounds that it has rested so far."""
    has_rested: bool = False
    """Since it last trained."""


@dataclass
class Monitor:
    """Watches one run. Shown the rounds in order; a new one learns the history first."""

    plan: Plan
    _thresholds: Thresholds | None = None
    _sites: dict[str, _Watched] = field(default_factory=dict)
    _moves: dict[str, Figures] = field(default_factory=dict)
    _step: Figures = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.plan.form is None:
            return
        self._thresholds = thresholds_for(self.plan.optimizer, self.plan.form)
        for site in self.plan.trainers:
            self._sites[site] = _Watched(deque(maxlen=self._thresholds.num_rounds_kept))

    @property
    def step(self) -> Figures:
        """`norm_ratio` and `cosine` of the model's last step, where defined."""
        return self._step

    @property
    def is_saturated(self) -> bool | None:
        """Whether enough sites are saturated; None: no site has ever sent its CME.

        A site that sends none counts as one that is not.
        """
        known = {site: watched.is_saturated for site, watched in self._sites.items()}
        if all(value is None for value in known.values()):
            return None
        share = (self.plan.stop or StopConfig()).share
        return federation_saturated({site: value is True for site, value in known.items()}, share)

    @property
    def saturated_sites(self) -> list[str]:
        """The sites that are saturated as far as is known, sorted."""
        return sorted(site for site, watched in self._sites.items() if watched.is_saturated)

    def resting(self, number: int, sampled: Sequence[str]) -> list[str]:
        """Return who of the sampled sites rests in round `number`."""
        stop = self.plan.stop
        if stop is None or (stop.rule, stop.action) != ("saturation", "skip"):
            return []
        entitled = {
            site: (watched.last_trained, watched.num_rests)
            for site, watched in self._sites.items()
            if watched.is_saturated and number - watched.last_trained <= stop.rest_rounds
        }
        return choose_resting(entitled, sampled, min_replies=self.plan.sampling.min_replies)

    def look(
        self,
        received: Vector,
        replies: Sequence[Accepted],
        vector: Vector,
        *,
        previous: Vector | None,
    ) -> None:
        """Take the figures of a round's updates, while the replies still hold their models.

        Args:
            received: (D,) the model that the sites got.
            replies: accepted.
            vector: (D,) the new model, whichever rule made it.
            previous: (D,) the model that the round before began with, if that had a step.
        """
        if not self.plan.monitor.influence:
            return
        self._step = step_figures(previous, received, vector)
        if not self.plan.is_masked:
            self._moves = site_figures(received, replies)

    def lines(self, number: int, answers: Iterable[Entry], resting: Iterable[str]) -> list[Entry]:
        """Return the lines of a round's training, with what the monitor adds to them."""
        rests = [
            Entry(number, "train", site=site, status="skipped", reason=RESTS) for site in resting
        ]
        lines = []
        for entry in [*answers, *rests]:
            mark = self._learn_one(entry)
            moved = self._moves.get(entry.site or "", {}) if entry.status == "ok" else {}
            lines.append(replace(entry, saturated=mark, update=moved))
        return lines

    def close(self) -> None:
        """Forget the round's updates."""
        self._moves, self._step = {}, {}

    def learn(self, history: Iterable[Entry]) -> None:
        """Take in what an earlier part of the run has written down."""
        for entry in history:
            self._learn_one(entry)

    def _learn_one(self, entry: Entry) -> bool | None:
        """Return whether the entry's site is saturated; None where it does not say."""
        watched = self._sites.get(entry.site or "")
        if watched is None or self._thresholds is None or entry.phase != "train":
            return None
        if entry.status == "skipped":
            watched.has_rested = True
            watched.num_rests += 1
        if entry.status != "ok":
            return None
        if watched.has_rested:
            # The model went on without it: what it did before says nothing about now.
            watched.rounds.clear()
            watched.has_rested = False
        watched.last_trained = entry.round_number
        if not entry.cme:  # nobody can tell any more, and it is to be judged anew
            watched.rounds.clear()
            watched.is_saturated = None if watched.is_saturated is None else False
            return None
        watched.rounds.append(entry.cme)
        watched.is_saturated = site_saturated(list(watched.rounds), self._thresholds)
        return watched.is_saturated


def site_figures(received: Vector, replies: Sequence[Accepted]) -> dict[str, Figures]:
    """Return by site `influence`, `cosine` and `norm_ratio` of its update, where defined.

    Weights are the sites' numbers of examples, as in FedAvg, under every strategy: what a site
    would have moved there, also where a median or a score was taken instead.

    Args:
        received: (D,) the model that the sites got.
        replies: accepted, with their models.
    """
    if not replies:
        return {}
    trained = [view(arrays_of(reply.message.content)[PARAMETERS]) for reply in replies]
    found = update_figures(received, trained, [reply.num_examples for reply in replies])
    columns = {
        "influence": found.influence_S,
        "cosine": found.cosine_S,
        "norm_ratio": found.norm_ratio_S,
    }
    return {
        reply.site: _defined({name: float(of_sites[i]) for name, of_sites in columns.items()})
        for i, reply in enumerate(replies)
    }


def step_figures(previous: Vector | None, received: Vector, vector: Vector) -> dict[str, float]:
    """Return how far the model went, and in which direction; undefined figures are absent.

    `norm_ratio` is |w' - w| / |w|, `cosine` that of the angle between w' - w and the step before.

    Args:
        previous: (D,) the model before the one that was sent; None: there was no step before.
        received: (D,) the model that was sent, w.
        vector: (D,) the new model, w'.
    """
    size = step_size = last_size = product = 0.0
    for start in range(0, len(received), CHUNK):
        part = slice(start, start + CHUNK)
        model = _wide(received[part])
        step = _wide(vector[part]) - model
        size += float(model @ model)
        step_size += float(step @ step)
        if previous is not None:
            last = model - _wide(previous[part])
            last_size += float(last @ last)
            product += float(step @ last)
    both = math.sqrt(step_size * last_size)
    figures = {"norm_ratio": math.sqrt(step_size / size)} if size else {}
    return _defined(figures | ({"cosine": min(max(product / both, -1.0), 1.0)} if both else {}))


def _wide(vector_D: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return vector_D.astype(np.float64)


def _defined(figures: Figures) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
