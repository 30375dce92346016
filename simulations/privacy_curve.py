"""What privacy costs: one study at several epsilons and without any, over the same seeds.

Everything but the noise stays as it is: patients, split, first weights, learning rate, rounds.
The run without privacy keeps the rules of the private ones (ranges of the schema scale, nothing
steers by patients) but passes over its patients in shuffled order, where DP-SGD draws them by a
coin each. Each hospital is also trained alone, as private as the federation: at the same epsilon,
from a budget of its own. In the modes `central` and `local` nothing leaves a hospital that trains
alone, so it needs no noise.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward.common.config.loader import Repetition, config_hash
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.privacy.checks import check_epsilon
from fedward.common.quiet import quiet_third_parties
from fedward.common.task import Metric
from fedward.simulations.console import NullDisplay
from fedward.simulations.engine import open_grid
from fedward.simulations.over_seeds import over_seeds, paired_over_seeds
from fedward.simulations.repetition import run_repetition

Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class Trained:
    """One run: the primary figure of every site, trained together and alone."""

    study: str
    """Hash of all that the runs of a curve have in common."""
    epsilon: float | None
    """None: without privacy."""
    seed: int
    metric: str
    federated: Figures
    alone: Figures
    spent: float | None
    """The largest epsilon of a site, as it was accounted."""


@dataclass(frozen=True)
class Point:
    """One epsilon, over the seeds; intervals are Student's t, differences paired by seed."""

    epsilon: float | None
    federated: Metric
    """Mean over the sites."""
    alone: Metric
    gain: Metric
    """Federated minus alone."""
    cost: Metric
    """Federated minus federated without privacy; no value where that was not run."""
    federated_at: Mapping[str, Metric]
    alone_at: Mapping[str, Metric]
    spent: float | None


def train_curve(  # noqa: PLR0913 - which study at which points, and what is known of it
    config: RunConfig,
    base_dir: Path,
    epsilons: Sequence[float | None],
    *,
    num_seeds: int,
    known: Sequence[Trained] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Trained]:
    """Yield every run of a curve, seeds outermost, those of `known` as they are.

    Args:
        config: a private run; its epsilon or noise is replaced.
        base_dir: folder that its paths start from.
        epsilons: None is the run without privacy.
        num_seeds: from the configuration's own seed upwards.
        known: of an interrupted curve.
        say: shows what is going on.

    Raises:
        ConfigError: the configuration is not private, an epsilon promises nothing, or `known` is
            of another study.
    """
    _check(config, epsilons, num_seeds)
    study = _study(config)
    if any(one.study != study for one in known):
        raise ConfigError(
            "the results that are there are of another configuration; give another --out"
        )
    done = {(one.epsilon, one.seed): one for one in known}
    quiet_third_parties()
    with closing(open_grid(config.engine)) as grid:
        for seed in range(config.seed, config.seed + num_seeds):
            for epsilon in epsilons:
                if (epsilon, seed) not in done:
                    say(f"seed {seed}, epsilon {told(epsilon)}")
                    with tempfile.TemporaryDirectory(prefix="fedward-curve-") as folder:
                        summary = run_repetition(
                            _at(config, epsilon),
                            Repetition(seed, None, None, f"seed{seed}"),
                            Path(folder),
                            base_dir,
                            grid=grid,
                            display=NullDisplay(),
                        )
                    done[epsilon, seed] = _trained(summary, study, epsilon)
                yield done[epsilon, seed]


def points_of(runs: Sequence[Trained]) -> list[Point]:
    """Return the curve: a point for each epsilon, in the order in which they come."""
    plain = {one.seed: one for one in runs if one.epsilon is None}
    return [
        _point([one for one in runs if one.epsilon == epsilon], plain)
        for epsilon in dict.fromkeys(one.epsilon for one in runs)
    ]


def told(epsilon: float | None) -> str:
    """Return an epsilon as people write it."""
    return "inf" if epsilon is None else f"{epsilon:g}"


def _check(config: RunConfig, epsilons: Sequence[float | None], num_seeds: int) -> None:
    if config.privacy is None or not config.privacy.is_on:
        raise ConfigError(
            "privacy: the curve needs a private run, whose epsilon it replaces; give privacy.mode, "
            "delta and the norm to clip to"
        )
    for epsilon in epsilons:
        if epsilon is not None:
            check_epsilon(epsilon)
    if num_seeds < 1 or len(set(epsilons)) < len(epsilons) or not epsilons:
        raise ConfigError("a curve needs a seed or more, and each epsilon once")


def _at(config: RunConfig, epsilon: float | None) -> RunConfig:
    """Return the run at an epsilon, with each site alone as its only baseline."""
    assert config.privacy is not None
    given = {"epsilon": epsilon, "noise_multiplier": None}
    privacy = None if epsilon is None else config.privacy.model_copy(update=given)
    changed = {
        "privacy": privacy,
        "baselines": ("local",),
        "repeat": None,
        "evaluate_every": config.rounds,
    }
    return config.model_copy(update=changed)


def _study(config: RunConfig) -> str:
    return config_hash(_at(config, 1.0).model_copy(update={"seed": 0})) + f"-{config.rounds}"


def _trained(summary: Mapping[str, Any], study: str, epsilon: float | None) -> Trained:
    metric = str(summary["primary_metric"])
    spent = [found["epsilon"] for found in summary["sites"].values()]
    known = [one for one in spent if one is not None]
    return Trained(
        study=study,
        epsilon=epsilon,
        seed=int(summary["seed"]),
        metric=metric,
        federated=_figures(summary["sites"], metric),
        alone=_figures(summary["baselines"]["local"]["sites"], metric),
        spent=max(known, default=None),
    )


def _figures(sites: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    return {site: found["metrics"].get(metric, {}).get("value") for site, found in sites.items()}


def _point(runs: Sequence[Trained], plain: Mapping[int, Trained]) -> Point:
    metric = runs[0].metric
    together = [_mean(one.federated) for one in runs]
    alone = [_mean(one.alone) for one in runs]
    pairs = [(one, plain[one.seed]) for one in runs if one.seed in plain]
    sites = list(dict.fromkeys(site for one in runs for site in one.federated))
    spent = [one.spent for one in runs if one.spent is not None]
    return Point(
        epsilon=runs[0].epsilon,
        federated=over_seeds(together, metric),
        alone=over_seeds(alone, metric),
        gain=paired_over_seeds(together, alone),
        cost=paired_over_seeds(
            [_mean(one.federated) for one, _ in pairs], [_mean(one.federated) for _, one in pairs]
        ),
        federated_at={s: over_seeds([one.federated.get(s) for one in runs], metric) for s in sites},
        alone_at={s: over_seeds([one.alone.get(s) for one in runs], metric) for s in sites},
        spent=max(spent, default=None),
    )


def _mean(figures: Figures) -> float | None:
    """Return the mean over the sites that have the figure, each counted once."""
    values = [value for value in figures.values() if value is not None]
    return math.fsum(values) / len(values) if values else None
