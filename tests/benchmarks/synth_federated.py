"""Training on synthetic rows of many hospitals, against training together without any rows.

    python -m tests.benchmarks.synth_federated [heart|sepsis] [--seeds 10]

Each way of making rows is held as `fedward synth federated` holds it: the same messages, sites and
gate. The rows of all hospitals are pooled, the run's own model is trained on them with the run's
own passes, and tested on each hospital's real test patients, which nothing has seen. A seed draws
split, rows, first weights and batches, so ways are paired by seed. A hospital whose small class is
withheld gives the other; its patients are tested on all the same.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedward.common.config.loader import load_run_config
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from fedward.common.task import Metric
from fedward.server.history import History
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.synthesis import hold, prepared
from fedward.simulations.synthetic_tables import tables_of
from fedward.simulations.synthetic_training import tested_on_patients
from tests.benchmarks.hospitals import Scores, Study, scores


@dataclass(frozen=True)
class Trial:
    """A shipped configuration, and how many rows each of its hospitals gives."""

    config: str
    rows_per_site: int
    delta: float


TRIALS = {
    "heart": Trial("heart_disease", 300, 1e-4),
    "sepsis": Trial("sepsis", 2000, 1e-6),
}


def ways(trial: Trial) -> dict[str, tuple[str, ...]]:
    """Return the keys of each way of making rows, by its name in the table."""
    private = ("synthesis.method=dp-copula", f"synthesis.delta={trial.delta}")
    return {
        "(a) rows, gaussian-copula": ("synthesis.method=rows",),
        "(a) rows, kde-knn": ("synthesis.method=rows", "synthesis.synthesiser={name: kde-knn}"),
        "(b) kde, federated filter": ("synthesis.method=filtered-rows",),
        "(c) copula from sums": ("synthesis.method=copula",),
        "(d) dp-copula, epsilon 8": (*private, "synthesis.epsilon=8"),
        "(d) dp-copula, epsilon 1": (*private, "synthesis.epsilon=1"),
    }


def main() -> None:
    """Print the table of one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trial", nargs="?", choices=list(TRIALS), default="heart")
    parser.add_argument("--seeds", type=int, default=10, help="1 to this number (at least 3)")
    args = parser.parse_args()
    if args.seeds < 3:
        parser.error("--seeds: an interval needs at least 3")
    quiet_third_parties()
    trial, seeds = TRIALS[args.trial], range(1, args.seeds + 1)
    study = Study(trial.config, {})
    found: dict[str, Scores] = {
        "federated training": scores(study, seeds, "federated"),
        "each site alone": scores(study, seeds, "local"),
        "all rows pooled (no hospital allows it)": scores(study, seeds, "pooled"),
    }
    for name, keys in ways(trial).items():
        found[name] = synthetic_scores(trial, seeds, keys)
        print(f"{name}: {time.process_time():.0f} CPU seconds so far", flush=True)
    print_table(trial, found, len(seeds))


def synthetic_scores(trial: Trial, seeds: Sequence[int], keys: tuple[str, ...]) -> Scores:
    """Return each site's AUROC of a model that was trained on the pooled rows."""
    one_by_one = [_one(trial, seed, keys) for seed in seeds]
    return {site: [found[site] for found in one_by_one] for site in one_by_one[0]}


def _one(trial: Trial, seed: int, keys: tuple[str, ...]) -> dict[str, float]:
    path = find_config(trial.config)
    fixed = (f"seed={seed}", "engine.name=inprocess", "evaluate_every=1000000")
    rows = f"synthesis.rows_per_site={trial.rows_per_site}"
    config = load_run_config(path, [*fixed, rows, *keys]).config
    federation = prepared(config, path.parent)
    grid = open_grid(config.engine)
    try:
        given = hold(federation, grid, history=History(), say=lambda line: None)
    finally:
        grid.close()
    tested = tested_on_patients(tables_of(given, federation).pooled, federation)
    figures = {site: one["metrics"]["auroc"]["value"] for site, one in tested["sites"].items()}
    return {site: math.nan if v is None else float(v) for site, v in sorted(figures.items())}


def print_table(trial: Trial, found: dict[str, Scores], num_seeds: int) -> None:
    """Print the means over hospitals, the paired differences, and each hospital by itself."""
    undefined = {
        site
        for one in found.values()
        for site, values in one.items()
        if not np.isfinite(values).all()
    }
    sites = [site for site in found["federated training"] if site not in undefined]
    print(
        f"\n{trial.config}: AUROC on real test patients, {num_seeds} seeds, 95 % intervals paired "
        f"by seed; {trial.rows_per_site} rows from each hospital"
    )
    if undefined:
        print(f"left out, too few test patients of one class: {', '.join(sorted(undefined))}")
    print(f"\n| trained on | mean | minus federated | minus each alone | {' | '.join(sites)} |")
    print("|---" * (4 + len(sites)) + "|")
    means = {name: np.mean([one[site] for site in sites], axis=0) for name, one in found.items()}
    for name, one in found.items():
        cells = [_interval(mean_interval(means[name].tolist()))]
        for base in ("federated training", "each site alone"):
            other = paired_interval(means[name].tolist(), means[base].tolist())
            cells.append("" if name == base else _interval(other))
        cells += [f"{np.mean(one[site]):.3f}" for site in sites]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{time.process_time():.0f} CPU seconds")


def _interval(metric: Metric) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"


if __name__ == "__main__":
    main()
