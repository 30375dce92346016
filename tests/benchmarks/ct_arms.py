"""One network after another on the same CT phantoms: what the benchmarks of CT have in common.

An arm is the shipped run `uscnet_phantom` with keys changed, as `--set` changes them, trained on
the pooled training patients of four sites and tested on their pooled test patients. A seed draws
the split, the first weights and the batches, so arms are paired by seed.
"""

from dataclasses import dataclass, replace
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
from fedward.common.images.figures import class_rows
from fedward.common.randomness import seed_for, seeded_global_torch, torch_generator
from fedward.common.task import Metric, PatientDataset, Split
from fedward.common.tasks.ct import CtTask
from fedward.simulations.cli import find_config
from fedward.simulations.federation import Federation
from fedward.simulations.image_sites import make_phantoms
from fedward.simulations.sites import pool
from fedward.synth.phantom.case import generator_hash
from fedward.synth.phantom.cohort import cohort_key

Labels = Literal["both", "ct", "ehr", "none"]
CONFIG = "uscnet_phantom"
SITES = ("north", "east", "south", "west")
SMOKE = "model.preset=smoke"
SLOW_SHARE = 4
"""The last quarter of the epochs is trained at a tenth of the learning rate."""


@dataclass(frozen=True)
class Result:
    """One trained arm, on the test patients of all sites."""

    label: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    """Of the second class; both are empty where the arm does not classify."""
    figures: dict[str, float]
    """Those of the task that are defined, by name."""

    @property
    def auroc(self) -> float:
        """Of an arm that classifies."""
        return self.figures["auroc"]

    @property
    def dice(self) -> float | None:
        """Of the lesions, where the arm segments."""
        return self.figures.get("dice")


def configured(labels: Labels, patients: int, changes: tuple[str, ...]) -> RunConfig:
    """Return the shipped run on a cohort of this kind, with the arm's changes."""
    each = patients // len(SITES)
    sites = ", ".join(f"{site}: {each}" for site in SITES)
    path = find_config(CONFIG)
    overrides = [
        f"data.phantom={{kind: stones, patients: {{{sites}}}, labels_from: {labels}, "
        "size: 48, files: nifti, seed: 4242}}".replace("}}", "}"),
        *changes,
    ]
    return load_run_config(path, overrides).config


def make_cohort(labels: Labels, patients: int) -> None:
    """Print the hashes of the cohort, before anything is trained, and make it if need be."""
    phantom = configured(labels, patients, ()).data.phantom
    assert phantom is not None
    print(f"generator {generator_hash()}, cohort {cohort_key(phantom)}", flush=True)
    make_phantoms(phantom)


def trained(config: RunConfig, seed: int, epochs: int) -> Result:
    """Return an arm after so many passes over the pooled training patients.

    Args:
        config: of the arm.
        seed: of the split, the first weights, the batches and dropout.
        epochs: passes.
    """
    split = Split(seed=seed, test_fraction=0.5)
    base_dir = Path(find_config(CONFIG)).parent
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
    last = epochs - epochs // SLOW_SHARE
    with seeded_global_torch(seed_for(seed, purpose="dropout")):
        for epoch in range(epochs):
            if epoch == last:  # so that a figure does not hang on where the last steps went
                slower = replace(optimizer, learning_rate=optimizer.learning_rate / 10)
                step = PlainStep(task.loss_per_sample, slower, execution=execution)
            # The loss is weighed anew each epoch; the optimiser goes on.
            step.loss_per_sample = task.training_loss(model, validation)
            rng = torch_generator(seed, purpose="fusion", round_number=epoch)
            train_locally(model, train, step=step, sampler=sampler, rng=rng, augment=task.augment)
    return _examined(task, model, test)


def shown(metric: Metric, *, signed: bool = False) -> str:
    """Return a figure with its interval, as tables show it."""
    if metric.value is None:
        return "undefined"
    form = "+.3f" if signed else ".3f"
    low = "" if metric.low is None else f" ({metric.low:{form}} to {metric.high:{form}})"
    return f"{metric.value:{form}}{low}"


def _examined(task: CtTask, model: torch.nn.Module, test: PatientDataset) -> Result:
    model.eval()
    rows = test.all_rows()
    kept: list[dict[str, Any]] = []
    with torch.no_grad():
        for start in range(0, len(rows["label"]), task.rows_per_pass):
            batch = {name: rows[name][start : start + task.rows_per_pass] for name in rows}
            kept.append(task.condense(model(batch), batch))
    whole = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
    figures = {
        name: metric.value
        for name, metric in task.metrics(whole).items()
        if metric.value is not None
    }
    known = {name: value.numpy() for name, value in whole.items()}
    if "probability" not in known:
        return Result(np.zeros(0, dtype=np.int64), np.zeros(0), figures)
    label, probability_PC, _ = class_rows(known, task.images.label_of)
    return Result(label, probability_PC[:, 1], figures)
