"""Does fusion help, and only where it can? CT phantoms whose labels depend on what we say.

    python -m tests.benchmarks.fusion [--labels both ct ehr none] [--seeds 3] [--patients 400]

For each kind of label a cohort of phantoms is made and its hash printed before anything is
trained. Every arm is the small network (preset `smoke`, or other networks of its size) trained on
the pooled training patients of four sites, and tested on the pooled test patients. A seed draws
the split, the first weights and the batches, so arms are paired by seed: a difference is the mean
over seeds with Student's t interval. DeLong's test compares two arms on the same test patients.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from fedward.client.optimizers import OptimizerSettings
from fedward.client.precision import Execution
from fedward.client.sampling import ShuffleSampler
from fedward.client.training import PlainStep, train_locally
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.delong import delong_test
from fedward.common.images.figures import class_rows
from fedward.common.intervals import mean_interval, paired_interval
from fedward.common.quiet import quiet_third_parties
from fedward.common.randomness import torch_generator
from fedward.common.task import Metric, PatientDataset, Split
from fedward.common.tasks.ct import CtTask
from fedward.simulations.cli import find_config
from fedward.simulations.federation import Federation
from fedward.simulations.image_sites import make_phantoms
from fedward.simulations.sites import pool
from fedward.synth.phantom.case import generator_hash
from fedward.synth.phantom.cohort import cohort_key

Labels = Literal["both", "ct", "ehr", "none"]
SITES = ("north", "east", "south", "west")
SMOKE = "model.preset=smoke"
# The published network's structure at the size of `smoke`.
PUBLISHED = (
    "model.preset=published",
    "model.hidden=96",
    "model.layers=4",
    "model.heads=4",
    "model.mlp_dim=192",
    "model.patch=8",
    "model.feature_size=4",
)
ARMS: dict[str, tuple[str, ...]] = {
    "tokens": (SMOKE,),
    "ct-only": (SMOKE, "data.modalities=[image]"),
    "ehr-only": (SMOKE, "data.modalities=[table]"),
    "published": PUBLISHED,
    "concat-fusion": ("model={name: concat-fusion}",),
    "tmss": (
        "model={name: tmss, hidden: 96, layers: 4, heads: 4, mlp_dim: 192, patch: 8, "
        "feature_size: 4}",
    ),
}
WANTED: dict[Labels, tuple[str, ...]] = {
    "both": ("tokens", "ct-only", "ehr-only", "published"),
    "ct": ("tokens", "ct-only"),
    "ehr": ("tokens", "ehr-only"),
    "none": ("tokens",),
}


@dataclass(frozen=True)
class Result:
    """One trained arm, on the test patients of all sites."""

    label: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    auroc: float
    dice: float | None


def main() -> None:
    """Print the table of each kind of label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="default: what is compared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=400, help="at four sites together")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    quiet_third_parties()
    for labels in args.labels:
        arms = tuple(args.arms or WANTED[labels])
        print(f"\nlabels depend on {labels}", flush=True)
        config = configured(labels, args.patients, ())
        assert config.data.phantom is not None
        key = cohort_key(config.data.phantom)
        print(f"generator {generator_hash()}, cohort {key}", flush=True)
        make_phantoms(config.data.phantom)
        found: dict[str, list[Result]] = {arm: [] for arm in arms}
        for seed, arm in ((seed, arm) for seed in range(1, args.seeds + 1) for arm in arms):
            begun = time.process_time()
            result = trained(configured(labels, args.patients, ARMS[arm]), seed, args.epochs)
            found[arm].append(result)
            dice = "" if result.dice is None else f"  Dice {result.dice:.3f}"
            seconds = time.process_time() - begun
            print(
                f"  seed {seed}  {arm:14} AUROC {result.auroc:.3f}{dice}  {seconds:.0f} CPU s",
                flush=True,
            )
        for line in table(found):
            print(line, flush=True)


def configured(labels: Labels, patients: int, changes: tuple[str, ...]) -> RunConfig:
    """Return the shipped run on a cohort of this kind, with the arm's changes."""
    each = patients // len(SITES)
    sites = ", ".join(f"{site}: {each}" for site in SITES)
    path = find_config("uscnet_phantom")
    overrides = [
        f"data.phantom={{kind: stones, patients: {{{sites}}}, labels_from: {labels}, "
        "size: 48, files: nifti, seed: 11}}".replace("}}", "}"),
        *changes,
    ]
    return load_run_config(path, overrides).config


def trained(config: RunConfig, seed: int, epochs: int) -> Result:
    """Return an arm after so many passes over the pooled training patients."""
    split = Split(seed=seed, test_fraction=0.4)
    base_dir = Path(find_config("uscnet_phantom")).parent
    study = Federation(config, "pooled", split, base_dir)
    task = study.task
    assert isinstance(task, CtTask)
    sources = [study.sites.source(site) for site in study.sites.site_ids]
    sums = np.sum([task.local_statistics(source, split) for source in sources], axis=0)
    parts = [task.datasets(source, split, sums) for source in sources]
    train, test = pool([p.train for p in parts]), pool([p.test for p in parts])
    validation = pool([p.validation for p in parts if p.validation is not None])
    model = study.new_model()
    execution = Execution.of(config.local)
    execution.prepare(model)
    sampler = ShuffleSampler(config.local.batch_size, epochs=1)
    optimizer = OptimizerSettings.of(config.local)
    step = PlainStep(task.loss_per_sample, optimizer, execution=execution)
    for epoch in range(epochs):
        # The loss is weighed anew each epoch; the optimiser goes on.
        step.loss_per_sample = task.training_loss(model, validation)
        rng = torch_generator(seed, purpose="fusion", round_number=epoch)
        train_locally(model, train, step=step, sampler=sampler, rng=rng, augment=task.augment)
    return _examined(task, model, test)


def table(found: dict[str, list[Result]]) -> Iterator[str]:
    """Yield the means of each arm, and the first arm against each other one."""
    for arm, results in found.items():
        auroc = mean_interval([r.auroc for r in results])
        dice = [r.dice for r in results if r.dice is not None]
        shown = f"  Dice {_figure(mean_interval(dice))}" if dice else ""
        yield f"  {arm:14} AUROC {_figure(auroc)}{shown}"
    first, *others = found
    for other in others:
        pairs = list(zip(found[first], found[other], strict=True))
        gain = paired_interval([a.auroc for a, _ in pairs], [b.auroc for _, b in pairs])
        p_values = [
            delong_test(a.label == 1, a.probability, b.probability).p_value for a, b in pairs
        ]
        shown = ", ".join(f"{p:.2g}" for p in p_values)
        yield f"  {first} - {other}: {_figure(gain, signed=True)}; DeLong p per seed {shown}"


def _examined(task: CtTask, model: torch.nn.Module, test: PatientDataset) -> Result:
    model.eval()
    rows = test.all_rows()
    kept: list[dict[str, Any]] = []
    with torch.no_grad():
        for start in range(0, len(rows["label"]), task.rows_per_pass):
            batch = {name: rows[name][start : start + task.rows_per_pass] for name in rows}
            kept.append(task.condense(model(batch), batch))
    whole = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
    metrics = task.metrics(whole)
    known = {name: value.numpy() for name, value in whole.items()}
    label, probability_PC, _ = class_rows(known, task.images.label_of)
    auroc, dice = metrics["auroc"].value, metrics.get("dice")
    assert auroc is not None
    value = None if dice is None or not whole["masked"].any() else dice.value
    return Result(label, probability_PC[:, 1], auroc, value)


def _figure(metric: Metric, *, signed: bool = False) -> str:
    if metric.value is None:
        return "undefined"
    form = "+.3f" if signed else ".3f"
    low = "" if metric.low is None else f" ({metric.low:{form}} to {metric.high:{form}})"
    return f"{metric.value:{form}}{low}"


if __name__ == "__main__":
    main()
