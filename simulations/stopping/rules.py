"""Every stop rule, as a pure function over a recording: after which round would it have ended?

A rule looks at nothing later than the round that it answers. Those with settings are tried with
each of them on other seeds: 30 for most, 13 for Pflug's statistic, 60 for saturation, which needs
more since its figures may also be averaged.

| rule | ends the run when |
|---|---|
| plateau | the validation loss has not improved for `patience` rounds by more than `min_delta` |
| saturation | by CME, `share` of the sites go nowhere |
| norm-ratio | the federation's update is small against the model, `num_rounds` in a row |
| site-cosine | the sites' updates point elsewhere than their mean, `num_rounds` in a row |
| round-cosine | the federation's update points elsewhere than the last, `num_rounds` in a row |
| pflug | the inner products of successive updates add up to less than 0, after `burn_in` rounds |
| leave-one-out | no site's update lowers the validation loss by more, `num_rounds` in a row |

Sources: Pflug 1990, Monatshefte fuer Mathematik 110:297-314; Chee and Toulis 2018, AISTATS,
arXiv:1710.06382 (here with the updates of rounds in place of gradients). The others: ours.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from fedward.common.config.monitor import StopConfig
from fedward.common.monitoring.saturation import (
    Thresholds,
    federation_saturated,
    site_saturated,
    thresholds_for,
)
from fedward.server.checkpoint import Progress
from fedward.server.stopping import update_patience
from fedward.simulations.stopping.recording import (
    VALIDATION_LOSS,
    Layers,
    RecordedRound,
    Recording,
)

Knobs = Mapping[str, float]
SHARE = 0.5
IN_A_ROW = (1, 2, 3)
ANY_RHO = 1.01
"""A threshold that every cosine is below: only the steadiness of `log_mag` counts."""


@dataclass(frozen=True)
class Rule:
    """One rule and the settings that it may be tuned to; a rule with one setting is not tuned.

    Args:
        name: in files.
        title: in tables.
        settings: at least one.
        stops: the round after which it ends a recorded run; None: not in this recording.
    """

    name: str
    title: str
    settings: Sequence[Knobs]
    stops: Callable[[Recording, Knobs], int | None]


def _grid(**values: Sequence[float]) -> tuple[Knobs, ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


def _saturation_grid(num_rounds: int, window: int) -> tuple[Knobs, ...]:
    return _grid(
        log_mag=(-3.0, -2.5),
        rho=(-0.35, -0.1, 0.15, 0.4, ANY_RHO),
        steady=(0.05, 0.1),
        num_rounds=(num_rounds,),
        window=(window,),
    )


def plateau(recording: Recording, knobs: Knobs) -> int | None:
    """Return when the validation loss has not improved for long enough."""
    stop = StopConfig(
        rule="plateau",
        metric=VALIDATION_LOSS,
        patience=int(knobs["patience"]),
        min_delta=knobs["min_delta"],
    )
    progress = Progress(0, {})
    for this in recording.rounds:
        progress = update_patience(progress, stop, this.figures)
        if progress.evaluations_without_gain >= stop.patience:
            return this.number
    return None


def saturation(recording: Recording, knobs: Knobs) -> int | None:
    """Return when enough sites are saturated by thresholds of `knobs`."""
    thresholds = Thresholds(
        log_mag=knobs["log_mag"],
        rho=knobs["rho"],
        steady=knobs["steady"],
        num_rounds=int(knobs["num_rounds"]),
        window=int(knobs["window"]),
    )
    return _saturates(recording, thresholds)


def shipped_saturation(recording: Recording, knobs: Knobs) -> int | None:
    """Return when enough sites are saturated by the thresholds of the recording's optimiser."""
    del knobs
    return _saturates(recording, thresholds_for(recording.optimizer, recording.form))


def norm_ratio(recording: Recording, knobs: Knobs) -> int | None:
    """Return when the federation's update has been small for long enough."""
    return _below(recording, knobs, lambda this: this.norm_ratio)


def site_cosine(recording: Recording, knobs: Knobs) -> int | None:
    """Return when the sites' updates have disagreed for long enough."""
    return _below(recording, knobs, lambda this: this.cosine_of_sites)


def round_cosine(recording: Recording, knobs: Knobs) -> int | None:
    """Return when successive updates have disagreed for long enough."""
    return _below(recording, knobs, lambda this: this.cosine_to_last)


def pflug(recording: Recording, knobs: Knobs) -> int | None:
    """Return when successive updates, from `burn_in` on, point against each other in sum."""
    burn_in = int(knobs["burn_in"])
    start: float | None = None
    for this in recording.rounds[burn_in - 1 :]:
        if this.pflug is None:
            continue
        if start is None:
            start = this.pflug
        elif this.pflug < start:
            return this.number
    return None


def leave_one_out(recording: Recording, knobs: Knobs) -> int | None:
    """Return when for long enough no site's update has helped on the validation patients."""
    return _below(recording, knobs, lambda this: max(this.left_out.values(), default=None))


def never(recording: Recording, knobs: Knobs) -> int | None:
    """Return None: the whole budget is used."""
    del recording, knobs
    return None


def _below(
    recording: Recording, knobs: Knobs, value: Callable[[RecordedRound], float | None]
) -> int | None:
    """Return when `value` has been below `threshold` for `num_rounds` rounds in a row."""
    in_a_row = 0
    for this in recording.rounds:
        found = value(this)
        in_a_row = in_a_row + 1 if found is not None and found < knobs["threshold"] else 0
        if in_a_row >= knobs["num_rounds"]:
            return this.number
    return None


def _saturates(recording: Recording, thresholds: Thresholds) -> int | None:
    """Return when `SHARE` of the sites that told of their layers are saturated."""
    num_kept = thresholds.num_rounds_kept  # as `server.monitoring` looks at them
    told: dict[str, deque[Layers]] = {}
    marks: dict[str, bool] = {}
    for this in recording.rounds:
        for site, layers in this.cme.items():
            rounds = told.setdefault(site, deque(maxlen=num_kept))
            rounds.append(layers)
            marks[site] = site_saturated(list(rounds), thresholds)
        if federation_saturated(marks, SHARE):
            return this.number
    return None


FULL = Rule("full", "whole budget", ({},), never)
PLATEAU = Rule(
    "plateau",
    "validation plateau, tuned",
    _grid(patience=(1, 2, 3, 5, 8, 12), min_delta=(0.0, 0.0003, 0.001, 0.003, 0.01)),
    plateau,
)
SATURATION = Rule(
    "saturation",
    "CME saturation, tuned",
    _saturation_grid(num_rounds=2, window=1)
    + _saturation_grid(num_rounds=1, window=3)
    + _saturation_grid(num_rounds=1, window=5),
    saturation,
)
SHIPPED = Rule(
    "saturation-shipped", "CME saturation, shipped thresholds", ({},), shipped_saturation
)
RULES: tuple[Rule, ...] = (
    FULL,
    PLATEAU,
    SHIPPED,
    SATURATION,
    Rule(
        "norm-ratio",
        "size of update, tuned",
        _grid(
            threshold=(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2),
            num_rounds=IN_A_ROW,
        ),
        norm_ratio,
    ),
    Rule(
        "site-cosine",
        "cosine of sites' updates, tuned",
        _grid(
            threshold=(0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9),
            num_rounds=IN_A_ROW,
        ),
        site_cosine,
    ),
    Rule(
        "round-cosine",
        "cosine of rounds' updates, tuned",
        _grid(
            threshold=(-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
            num_rounds=IN_A_ROW,
        ),
        round_cosine,
    ),
    Rule(
        "pflug",
        "Pflug's statistic, tuned",
        _grid(burn_in=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)),
        pflug,
    ),
    Rule(
        "leave-one-out",
        "leave one site out, tuned",
        _grid(
            threshold=(0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02),
            num_rounds=IN_A_ROW,
        ),
        leave_one_out,
    ),
)
