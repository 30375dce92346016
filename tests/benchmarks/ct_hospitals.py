"""Does joining pay for hospitals with images? Federated against each site alone and all pooled.

    python -m tests.benchmarks.ct_hospitals phantom|nodules|nodules-3d|kidney-stones [--seeds 3]

A seed draws the split into training and test patients, the first weights and the batches. So runs
are paired by seed, and a difference is the mean over seeds with Student's t interval: of other
splits of the same patients, which overlap, so that for new patients it is too narrow. All three
have the rounds and epochs of the shipped configuration. Figures are those of each site's test
patients, and their unweighted mean over sites. Rows are regions round true lesions, or slices
that have one, as the configurations say.

`phantom` has a fifth site that takes no part in training, with a scanner of its own: all of its
patients test the federated and the pooled model.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from fedward.common.records import PARAMETERS
from fedward.common.study import Kind
from fedward.common.task import Split
from fedward.common.tasks.ct import CtTask
from fedward.server.history import History
from fedward.server.rounds import Outcome
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import Federation, run_federation
from fedward.simulations.image_sites import make_phantoms
from fedward.simulations.sites import resolve_sites
from tests.benchmarks.ct_arms import shown

METRICS = ("auroc", "dice")
KINDS: tuple[Kind, ...] = ("federated", "local", "pooled")
UNSEEN = "unseen"
PATIENTS = 100
Scores = dict[str, dict[str, float]]
"""By metric and site."""


@dataclass(frozen=True)
class Study:
    """A shipped configuration, and keys that are changed in it."""

    config: str
    changes: tuple[str, ...] = ()
    unseen: str | None = None
    """The `data.phantom` of the same cohort with one more site."""


def _phantom(sites: Sequence[str]) -> str:
    patients = ", ".join(f"{site}: {PATIENTS}" for site in sites)
    return f"{{kind: stones, patients: {{{patients}}}, size: 48, files: nifti, seed: 4243}}"


FOUR = ("north", "east", "south", "west")
STUDIES = {
    "phantom": Study(
        "uscnet_phantom", (f"data.phantom={_phantom(FOUR)}",), _phantom((*FOUR, UNSEEN))
    ),
    "nodules": Study("nodules"),
    "nodules-3d": Study("nodules_3d"),
    "kidney-stones": Study("kidney_stones"),
}


@dataclass(frozen=True)
class Job:
    """One training."""

    study: Study
    seed: int
    kind: Kind


@dataclass(frozen=True)
class Found:
    """What it came to."""

    scores: Scores
    unseen: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    """Print one study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3, help="1 to this number (at least 3)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a core each")
    args = parser.parse_args()
    quiet_third_parties()
    study = STUDIES[args.study]
    for changes in (study.changes, (f"data.phantom={study.unseen}",) if study.unseen else ()):
        phantom = _config(study, 1, changes).data.phantom
        if phantom is not None:
            make_phantoms(phantom, say=partial(print, flush=True))
    jobs = [Job(study, s, kind) for s in range(1, args.seeds + 1) for kind in KINDS]
    found: dict[Kind, list[Found]] = {kind: [] for kind in KINDS}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as processes:
        for job, one in zip(jobs, processes.map(trained, jobs), strict=True):
            found[job.kind].append(one)
            print(f"seed {job.seed} {job.kind}: {one.seconds:.0f} CPU s", flush=True)
    for line in tables(found):
        print(line)


def trained(job: Job) -> Found:
    """Return the figures of one training."""
    quiet_third_parties()
    begun = time.process_time()
    study = job.study
    config = _config(study, job.seed, study.changes)
    base_dir = find_config(study.config).parent
    split = Split(job.seed, config.data.test_fraction)
    federation = Federation(config, job.kind, split, base_dir)
    grid = open_grid(config.engine)
    try:
        outcome = run_federation(federation, grid, history=History())
    finally:
        grid.close()
    scores = {
        metric: {
            site: _value(report["metrics"].get(metric, {}).get("value"))
            for site, report in sorted(outcome.evaluations.items())
        }
        for metric in METRICS
    }
    unseen = {}
    if study.unseen is not None and job.kind != "local":
        unseen = _on_unseen(federation, outcome, study)
    return Found(scores, unseen, time.process_time() - begun)


def tables(found: dict[Kind, list[Found]]) -> Iterator[str]:
    """Yield the figures of each site, their mean, and those of the unseen site."""
    federated, local, pooled = (found[kind] for kind in KINDS)
    for metric in METRICS:
        sites = list(federated[0].scores[metric])
        if not any(math.isfinite(federated[0].scores[metric][site]) for site in sites):
            continue
        yield f"\n| {metric} | federated | alone | pooled | minus alone | minus pooled |"
        yield "|---|---|---|---|---|---|"
        for site in (*sites, "mean"):
            of = [[_of(one.scores[metric], site) for one in runs] for runs in (federated, local)]
            of.append([_of(one.scores[metric], site) for one in pooled])
            cells = [shown(mean_interval(values)) for values in of]
            cells += [shown(paired_interval(of[0], other), signed=True) for other in of[1:]]
            yield f"| {site} | " + " | ".join(cells) + " |"
    for metric in federated[0].unseen:
        own = [one.unseen[metric] for one in federated]
        other = [one.unseen[metric] for one in pooled]
        yield (
            f"\nnever seen: {metric} federated {shown(mean_interval(own))}, "
            f"pooled {shown(mean_interval(other))}"
        )


def _config(study: Study, seed: int, changes: Sequence[str]) -> RunConfig:
    # Evaluating only the last round saves a quarter of the time and changes no training.
    fixed = (f"seed={seed}", "engine.name=inprocess", "evaluate_every=1000000")
    return load_run_config(find_config(study.config), [*fixed, *changes]).config


def _on_unseen(federation: Federation, outcome: Outcome, study: Study) -> dict[str, float]:
    """Return the figures of the final model on every patient of the site that took no part."""
    task = federation.task
    assert isinstance(task, CtTask)
    config = _config(study, federation.seed, (f"data.phantom={study.unseen}",))
    others = resolve_sites(config.data, seed=federation.seed, base_dir=Path())
    sums = sum(
        task.local_statistics(federation.sites.source(site), federation.split)
        for site in federation.sites.site_ids
    )
    data = task.datasets(others.source(UNSEEN), Split(1, 0.5), np.asarray(sums))
    model = federation.new_model()
    federation.shared_of(model).load(model, outcome.progress.vectors[PARAMETERS])
    model.eval()
    kept = []
    with torch.no_grad():
        for part in (data.train, data.test, data.validation):
            rows = {} if part is None else part.all_rows()
            for start in range(0, len(rows.get("label", ())), task.rows_per_pass):
                batch = {name: rows[name][start : start + task.rows_per_pass] for name in rows}
                kept.append(task.condense(model(batch), batch))
    figures = task.metrics({name: torch.cat([part[name] for part in kept]) for name in kept[0]})
    return {metric: _value(figures[metric].value) for metric in METRICS if metric in figures}


def _of(scores: dict[str, float], site: str) -> float:
    return float(np.nanmean(list(scores.values()))) if site == "mean" else scores[site]


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)


if __name__ == "__main__":
    main()
