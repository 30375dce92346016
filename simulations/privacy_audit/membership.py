"""Who was in the training data? A likelihood-ratio attack on the model that a run releases.

The attacker has the run's configuration and patients like those of the sites. It trains shadow
models, each with another part of them left out, and so learns how confident a model is of a
patient's label when the patient was trained on, and when not. Which of the two the released model
resembles more is the guess.

    phi = log p(y) - log(1 - p(y))
    score = log N(phi; mean of those in, variance) - log N(phi; mean of those out, variance)

Means are of each patient, the two variances of all patients together: so few shadow models say
too little of a patient's own.

Every model, released or shadow, is a whole run of the simulation, with first weights, batches and
noise of its own. Shadow models may be trained on patients of the true sites: an attacker who knows
them all but for who was in is the one that differential privacy speaks of.

The parts left out are as large as that of the attacked model, where Carlini leaves out half.

Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles",
arXiv:2112.03570, Algorithm 1 (online), with the variances of section VI-B.

Legend: N patients of all sites, S shadow models.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward.common.config.monitor import MonitorConfig
from fedward.common.errors import ConfigError
from fedward.common.metrics import auroc
from fedward.common.randomness import numpy_generator, seed_for
from fedward.common.records import PARAMETERS
from fedward.common.task import Metric, PatientDataset, Split
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.history import History
from fedward.simulations.federation import Federation, run_federation
from fedward.simulations.grids.inprocess import InProcessGrid
from fedward.simulations.sites import SimulatedSites

NUM_SHADOWS, MIN_SHADOWS = 32, 4
FALSE_POSITIVE_RATE = 0.01
NUM_BOOTSTRAPS = 2000
LEAST_VARIANCE = 1e-12
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class Membership:
    """How well an attacker tells who was trained on."""

    seed: int
    auc: Metric
    """0.5 is guessing."""
    tpr: Metric
    """Share of the members it finds while it accuses one of a hundred others; 0.01 is guessing."""
    num_members: int
    num_others: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Redrawn(Federation):
    """The same sites and patients, of whom others are trained on."""

    whose: Federation | None = None

    @cached_property
    def sites(self) -> SimulatedSites:
        """Those of the run: its own seed would deal patients to sites anew."""
        assert self.whose is not None
        return self.whose.sites


def attack_membership(
    federation: Federation,
    *,
    seeds: Sequence[int],
    num_shadows: int = NUM_SHADOWS,
    say: Callable[[str], None] = lambda text: None,
) -> list[Membership]:
    """Return how the attack fares against the model of each seed, with the same shadow models.

    Args:
        federation: of tables, private or not.
        seeds: of the attacked runs.
        num_shadows: S, at least `MIN_SHADOWS`.
        say: told what is done.

    Raises:
        ConfigError: the run releases no whole model, or has no table.
    """
    federation = _plain_run(federation, num_shadows)
    left_out = federation.config.data.test_fraction
    shadows = []
    for number in range(num_shadows):
        say(f"shadow model {number + 1} of {num_shadows}")
        seed = seed_for(federation.seed, purpose="shadow-model", round_number=number)
        shadows.append(_observed(federation, Split(seed, left_out)))
    shadow_SN = np.stack([confidence for confidence, _ in shadows])
    is_in_SN = np.stack([is_in for _, is_in in shadows])
    found = []
    for seed in seeds:
        say(f"attacked model of seed {seed}")
        confidence_N, is_in_N = _observed(federation, Split(seed, left_out))
        score_N = likelihood_ratio(confidence_N, shadow_SN, is_in_SN)
        found.append(judge(score_N, is_in_N, seed=seed))
    return found


def likelihood_ratio(confidence_N: Floats, shadow_SN: Floats, is_in_SN: Bools) -> Floats:
    """Return (N,), how much likelier each patient's confidence is if it was trained on.

    A patient that all or no shadow models were trained on has the score 0: nothing is known of it.

    Args:
        confidence_N: of the attacked model, in logits.
        shadow_SN: of the shadow models.
        is_in_SN: whom each of them was trained on.

    Source: Carlini et al. 2022, Algorithm 1, with one variance for all patients.
    """
    log_density = []
    for chosen_SN in (is_in_SN, ~is_in_SN):
        count_N = chosen_SN.sum(axis=0)
        mean_N = (shadow_SN * chosen_SN).sum(axis=0) / np.maximum(count_N, 1)
        square_SN = (shadow_SN - mean_N) ** 2 * chosen_SN
        free = max(int((count_N - 1).clip(min=0).sum()), 1)
        variance = max(float(square_SN.sum()) / free, LEAST_VARIANCE)
        # The mean is of few models: what it misses by is part of what the attacker does not know.
        spread_N = variance * (1 + 1 / np.maximum(count_N, 1))
        log_density.append(-((confidence_N - mean_N) ** 2) / (2 * spread_N) - np.log(spread_N) / 2)
    is_known_N = is_in_SN.any(axis=0) & ~is_in_SN.all(axis=0)
    score: Floats = np.where(is_known_N, log_density[0] - log_density[1], 0.0)
    return score


def judge(score_N: Floats, is_in_N: Bools, *, seed: int) -> Membership:
    """Return the figures of guesses, with 95 % intervals over patients.

    That of the true positive rate is by bootstrap, members and others apart (percentiles).
    """
    inside, outside = score_N[is_in_N], score_N[~is_in_N]
    rng = numpy_generator(seed, purpose="membership-bootstrap")
    drawn = [
        _share_found(rng.choice(inside, len(inside)), rng.choice(outside, len(outside)))
        for _ in range(NUM_BOOTSTRAPS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    tpr = Metric(_share_found(inside, outside), float(low), float(high), n=len(score_N))
    return Membership(seed, auroc(is_in_N, score_N), tpr, len(inside), len(outside))


def _share_found(inside: Floats, outside: Floats) -> float:
    """Return the members above a threshold that at most one other of a hundred is above."""
    allowed = int(FALSE_POSITIVE_RATE * len(outside))
    threshold = np.partition(outside, len(outside) - 1 - allowed)[len(outside) - 1 - allowed]
    return float((inside > threshold).mean())


def _observed(federation: Federation, split: Split) -> tuple[Floats, Bools]:
    """Return a released model's confidence in each patient (N,), and whom it was trained on.

    Patients are in the order of sites and of their numbers there, whatever the split.
    """
    run = Redrawn(federation.config, "federated", split, federation.base_dir, whose=federation)
    outcome = run_federation(run, InProcessGrid(), history=History())
    vectors = outcome.progress.vectors
    shared, _ = run.initial
    model = run.new_model()
    shared.load(model, vectors[PARAMETERS])
    model.eval()
    confidence, is_in = [], []
    for name in run.sites.site_ids:
        data = run.task.datasets(run.sites.source(name), split, vectors.get("statistics"))
        parts = [data.train, data.test, *([data.validation] if data.validation else [])]
        found = [_of_patients(model, part) for part in parts if len(part)]
        patient = np.concatenate([who for who, _ in found])
        order = np.argsort(patient, kind="stable")
        confidence.append(np.concatenate([values for _, values in found])[order])
        is_in.append((np.arange(len(patient)) < len(data.train))[order])
    return np.concatenate(confidence), np.concatenate(is_in)


@torch.no_grad()
def _of_patients(model: nn.Module, data: PatientDataset) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the patients' numbers and the mean of log p / (1 - p) over each one's rows."""
    rows = data.all_rows()
    label_R1 = rows["label"].long().unsqueeze(1)
    logits_RC = model(rows).double()
    own_R = logits_RC.gather(1, label_R1).squeeze(1)
    others_RC = logits_RC.scatter(1, label_R1, -torch.inf)
    phi_R = (own_R - others_RC.logsumexp(dim=1)).numpy()
    patient, owner, count = np.unique(
        rows["patient_id"].numpy(), return_inverse=True, return_counts=True
    )
    return patient, np.bincount(owner, weights=phi_R) / count


def _plain_run(federation: Federation, num_shadows: int) -> Federation:
    """Return the run with nothing beside its training.

    Raises:
        ConfigError: it cannot be attacked like this.
    """
    config = federation.config
    if not isinstance(federation.task, EhrClassification):
        raise ConfigError(f"task: {config.task}: the attack is one on models of tables")
    if tuple(config.shared) != ("*",):
        raise ConfigError("shared: only a part of the model is released; the attack needs it whole")
    if num_shadows < MIN_SHADOWS:
        raise ConfigError(f"--shadows: given {num_shadows}, expected at least {MIN_SHADOWS}")
    plain = {"monitor": MonitorConfig(), "evaluate_every": config.rounds, "baselines": ()}
    return replace(federation, config=config.model_copy(update=plain))
