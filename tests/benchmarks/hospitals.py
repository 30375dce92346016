"""Does joining pay, on real hospitals? Each strategy against each site alone and all rows pooled.

    python -m tests.benchmarks.hospitals [heart|flamby|sepsis] [--seeds 10]

A seed draws the split into training and test patients, the first weights and the batches. So runs
are paired by seed, and a difference is the mean over seeds with Student's t interval. The
baselines do not depend on the strategy and are run once per seed. Everything runs in this process,
on one thread, through the loop and the client of `fedward simulate`.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from fedward.common.config.loader import load_run_config
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from fedward.common.study import Kind
from fedward.common.task import Metric, Split
from fedward.server.history import History
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import Federation, run_federation

Scores = dict[str, list[float]]
"""AUROC of each site, one per seed, in the order of the seeds."""


@dataclass(frozen=True)
class Study:
    """One shipped configuration, and what each strategy changes in it."""

    config: str
    strategies: dict[str, tuple[str, ...]]


OWN_KEYS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("strategy.proximal_mu=0.1",),
    "scaffold": (),
    "fedadam": ("strategy.eta=0.03",),
    "ditto": ("strategy.penalty=1.0",),
}
STUDIES = {
    "heart": Study("heart_disease", OWN_KEYS),
    "flamby": Study("heart_disease_flamby", OWN_KEYS),
    "sepsis": Study("sepsis", OWN_KEYS),
}


def main() -> None:
    """Print the tables of one study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", choices=list(STUDIES), default="heart")
    parser.add_argument("--seeds", type=int, default=10, help="1 to this number (at least 3)")
    args = parser.parse_args()
    if args.seeds < 3:
        parser.error("--seeds: an interval needs at least 3")
    quiet_third_parties()
    run_study(STUDIES[args.study], range(1, args.seeds + 1))


def run_study(study: Study, seeds: Sequence[int]) -> None:
    """Print one row per strategy, one per hospital, the recovery, and the control."""
    local = scores(study, seeds, "local")
    pooled = scores(study, seeds, "pooled")
    federated = {
        name: scores(study, seeds, "federated", (f"strategy.name={name}", *own))
        for name, own in study.strategies.items()
    }
    undefined = [site for site, values in local.items() if not np.isfinite(values).all()]
    for table in (local, pooled, *federated.values()):
        for site in undefined:
            del table[site]
    print(f"\n{study.config}: AUROC, {len(seeds)} seeds, 95 % intervals paired by seed")
    if undefined:
        print(f"left out, too few test patients of one class: {', '.join(undefined)}")
    print_strategies(study, federated, local, pooled)
    print_hospitals(federated["fedavg"], local, pooled)
    gaining = max(local, key=lambda site: np.mean(pooled[site]) - np.mean(local[site]))
    print_recovery(gaining, federated["fedavg"], local, pooled)
    keep = (f"data.shuffle_labels_except=[{gaining}]",)
    control = {
        "fedavg": scores(study, seeds, "federated", ("strategy.name=fedavg", *keep)),
        "pooled": scores(study, seeds, "pooled", keep),
    }
    print_control(gaining, control, local)
    print(f"\n{time.process_time():.0f} CPU seconds")


def scores(study: Study, seeds: Sequence[int], kind: Kind, own: tuple[str, ...] = ()) -> Scores:
    """Return each site's AUROC on its test patients; NaN where it is undefined."""
    found = [_run(study.config, seed, kind, own) for seed in seeds]
    return {site: [one[site] for one in found] for site in found[0]}


def _run(config_name: str, seed: int, kind: Kind, own: tuple[str, ...]) -> dict[str, float]:
    path = find_config(config_name)
    # Evaluating only the last round halves the time and changes no training.
    fixed = (f"seed={seed}", "engine.name=inprocess", "evaluate_every=1000000")
    config = load_run_config(path, [*fixed, *own]).config
    split = Split(seed, config.data.test_fraction)
    federation = Federation(config, kind, split, path.parent)
    grid = open_grid(config.engine)
    try:
        outcome = run_federation(federation, grid, history=History())
    finally:
        grid.close()
    figures = {site: e["metrics"]["auroc"]["value"] for site, e in outcome.evaluations.items()}
    return {s: math.nan if v is None else float(v) for s, v in sorted(figures.items())}


def print_strategies(
    study: Study, federated: dict[str, Scores], local: Scores, pooled: Scores
) -> None:
    """Print the site means, one row per strategy."""
    print("\n| strategy | federated | local | pooled | federated - pooled | federated - local |")
    print("|---|---|---|---|---|---|")
    mean_local, mean_pooled = site_means(local), site_means(pooled)
    for name, table in federated.items():
        own = " ".join(key.removeprefix("strategy.") for key in study.strategies[name])
        print_row(f"{name} {own}".strip(), site_means(table), mean_local, mean_pooled)


def print_hospitals(federated: Scores, local: Scores, pooled: Scores) -> None:
    """Print one row per hospital."""
    print("\n| hospital | fedavg | local | pooled | fedavg - pooled | fedavg - local |")
    print("|---|---|---|---|---|---|")
    for site in local:
        print_row(site, federated[site], local[site], pooled[site])


def print_row(
    name: str, federated: Sequence[float], local: Sequence[float], pooled: Sequence[float]
) -> None:
    """Print three means and two differences."""
    means = " | ".join(f"{np.mean(values):.3f}" for values in (federated, local, pooled))
    minus_pooled = shown(paired_interval(federated, pooled), ".3f")
    minus_local = shown(paired_interval(federated, local), ".3f")
    print(f"| {name} | {means} | {minus_pooled} | {minus_local} |")


def print_recovery(site: str, federated: Scores, local: Scores, pooled: Scores) -> None:
    """Print how much of the way from local to pooled FedAvg goes at the site that gains most."""
    gain = [f - alone for f, alone in zip(federated[site], local[site], strict=True)]
    possible = [p - alone for p, alone in zip(pooled[site], local[site], strict=True)]
    print(
        f"\n{site} gains most from pooling: {shown(mean_interval(possible), '+.3f')}; "
        f"fedavg recovers {shown(ratio_interval(gain, possible), '.2f')} of it (Fieller)"
    )


def print_control(site: str, control: dict[str, Scores], local: Scores) -> None:
    """Print the same site where the other hospitals' training labels are shuffled."""
    print(
        f"\nControl: labels of all but {site} shuffled; figures at {site}; its own rows as before"
    )
    print("\n| trained | AUROC | minus local |")
    print("|---|---|---|")
    print(f"| local | {np.mean(local[site]):.3f} | |")
    for name, table in control.items():
        gain = shown(paired_interval(table[site], local[site]), "+.3f")
        print(f"| {name} | {np.mean(table[site]):.3f} | {gain} |")


def site_means(table: Scores) -> list[float]:
    """Return the unweighted mean over the sites for each seed."""
    return [math.fsum(values) / len(values) for values in zip(*table.values(), strict=True)]


def ratio_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Metric:
    """Return mean(a) / mean(b) of paired values with Fieller's interval.

    It holds every r for which the t interval of a - r b covers 0: Fieller 1954, JRSS B 16:175-185.
    There is none where mean(b) is not clearly different from 0.
    """
    n = len(a)
    mean_a, mean_b = float(np.mean(a)), float(np.mean(b))
    (var_a, cov), (_, var_b) = np.cov(a, b) * float(stdtrit(n - 1, 0.5 + level / 2)) ** 2 / n
    # (mean_a - r mean_b)^2 = var_a - 2 r cov + r^2 var_b
    lead, half, last = mean_b**2 - var_b, mean_a * mean_b - cov, mean_a**2 - var_a
    if lead <= 0:
        return Metric(mean_a / mean_b, n=n)
    root = math.sqrt(max(0.0, half**2 - lead * last))
    return Metric(mean_a / mean_b, (half - root) / lead, (half + root) / lead, n=n)


def shown(metric: Metric, form: str) -> str:
    """Return `value (low to high)`."""
    assert metric.value is not None
    if metric.low is None or metric.high is None:
        return f"{metric.value:{form}} (no finite interval)"
    return f"{metric.value:{form}} ({metric.low:{form}} to {metric.high:{form}})"


if __name__ == "__main__":
    main()
