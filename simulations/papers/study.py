"""Runs a study: for every seed, patients, synthetic rows of every arm, learners, and attacks.

What a seed stands for: other training patients, other test patients, other rows and learners. So
arms are paired by seed, and intervals over seeds (Student's t) are of other draws of the same
hospitals' patients, which overlap: for new patients they are too narrow.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fedward.common.randomness import numpy_generator, seed_for
from fedward.simulations.papers.config import ArmConfig, StudyConfig
from fedward.simulations.papers.patients import Draw, Patients, class_code
from fedward.synth.evaluation.learners import ClassWeight, Learner, learner_named
from fedward.synth.evaluation.membership import membership_risks
from fedward.synth.evaluation.mixing import PAPERS_LEARNER, SHARES_REAL, mixture
from fedward.synth.evaluation.plausibility import plausibility
from fedward.synth.evaluation.resemblance import resemblance
from fedward.synth.evaluation.trial import Trial, make_trial
from fedward.synth.evaluation.utility import Training, trained_areas
from fedward.synth.tables.base import Sampling, Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.methods import new_synthesiser

REAL = "real"
WEIGHTED = "real, weighted classes"
CONTROLS = (REAL, WEIGHTED)
INTERNAL = "internal"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What one arm came to with one seed; a key that was not measured is absent."""

    arm: str
    seed: int
    auroc: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By table of patients (`internal`, or a hospital) and learner."""
    mixing: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By table of patients and share of real rows."""
    acceptance: dict[str, float | None] = field(default_factory=dict)
    """Share of candidates that were kept, by class."""
    sound: dict[str, float | None] = field(default_factory=dict)
    """Shares of rows and cells that cannot be, and distances to patients."""
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By number of rows that are given away."""
    settings: str = ""
    """What it follows from, as JSON: a result of the same settings is not made twice."""


def run_study(
    config: StudyConfig, base_dir: Path, *, say: Say, known: Sequence[Result] = ()
) -> Iterator[Result]:
    """Yield the results as they come, seed by seed, arm by arm.

    Args:
        config: of the study.
        base_dir: where relative paths start.
        say: is told what is being done.
        known: results of an earlier, perhaps interrupted, run; those of the same settings stay.

    Raises:
        FedwardError: patients or a method cannot be used.
    """
    patients = Patients(config.data, base_dir)
    learners = tuple(learner_named(name) for name in config.learners)
    for seed in range(config.seed, config.seed + config.num_seeds):
        draw = patients.draw(seed)
        for arm in (*CONTROLS, *config.arms):
            settings = _settings(config, arm, seed)
            found = next((one for one in known if one.settings == settings), None)
            if found is None:
                say(f"seed {seed}: {arm}")
                found = replace(_result(config, arm, draw, learners, seed), settings=settings)
            yield found


def _result(
    config: StudyConfig, arm: str, draw: Draw, learners: tuple[Learner, ...], seed: int
) -> Result:
    if arm in CONTROLS:
        weight: ClassWeight = "balanced" if arm == WEIGHTED else None
        return Result(arm, seed, _aurocs(draw, draw.train, learners, seed, weight))
    model = fitted(config.arms[arm], draw, seed)
    sampling = model.sampling(class_counts=_rows(draw.columns, config.rows), seed=seed)
    table = pd.concat(sampling.chunks(), ignore_index=True)
    return Result(
        arm,
        seed,
        _aurocs(draw, table, learners, seed),
        _mixing(config, arm, draw, table, seed),
        _acceptance(sampling),
        _soundness(draw, table, seed),
        _attacks(config, model, draw, seed) if _is_attacked(config, arm, seed) else {},
    )


def _settings(config: StudyConfig, arm: str, seed: int) -> str:
    """Return all that a result depends on."""
    mixing = config.mixing if config.mixing is not None and config.mixing.arm == arm else None
    attacks = config.attacks if _is_attacked(config, arm, seed) else None
    parts = {
        "data": config.data,
        "arm": config.arms.get(arm),
        "mixing": mixing,
        "attacks": attacks,
    }
    dumped = {name: one and one.model_dump(mode="json") for name, one in parts.items()}
    others = {"arm": arm, "seed": seed, "rows": config.rows, "learners": config.learners}
    return json.dumps([dumped, others], sort_keys=True)


def _is_attacked(config: StudyConfig, arm: str, seed: int) -> bool:
    is_made = arm not in CONTROLS
    return is_made and config.attacks is not None and seed < config.seed + config.attacks.seeds


def fitted(arm: ArmConfig, draw: Draw, seed: int) -> Synthesiser:
    """Return the arm's synthesiser, fitted on the seed's training patients."""
    model = new_synthesiser(arm.name, columns=draw.columns, **{"seed": seed, **arm.own})
    return model.fit(draw.train)


def _aurocs(
    draw: Draw,
    table: pd.DataFrame,
    learners: tuple[Learner, ...],
    seed: int,
    class_weight: ClassWeight = None,
) -> dict[str, dict[str, float | None]]:
    tests = {INTERNAL: draw.holdout, **draw.external}
    found: dict[str, dict[str, float | None]] = {test: {} for test in tests}
    for learner in learners:
        own_seed = seed_for(seed, purpose=f"study {learner.name}")
        how = Training(learner, class_weight, own_seed)
        for test, area in trained_areas(draw.columns, table, tests, how).items():
            found[test][learner.name] = area.metric.value
    return found


def _mixing(
    config: StudyConfig, arm: str, draw: Draw, table: pd.DataFrame, seed: int
) -> dict[str, dict[str, float | None]]:
    if config.mixing is None or config.mixing.arm != arm:
        return {}
    tests = {INTERNAL: draw.holdout, **draw.external}
    found: dict[str, dict[str, float | None]] = {test: {} for test in tests}
    num_rows = min(len(draw.train), len(table))
    for share in SHARES_REAL:
        rng = numpy_generator(seed, purpose=f"study mixing {share}")
        mixed = mixture(draw.train, table, round(share * num_rows), num_rows, rng)
        how = Training(PAPERS_LEARNER, seed=seed_for(seed, purpose="study mixing"))
        for test, area in trained_areas(draw.columns, mixed, tests, how).items():
            found[test][f"{share:.0%}"] = area.metric.value
    return found


def _acceptance(sampling: Sampling) -> dict[str, float | None]:
    return {str(name): one.rate for name, one in sampling.acceptance.items()}


def _soundness(draw: Draw, table: pd.DataFrame, seed: int) -> dict[str, float | None]:
    found = plausibility(draw.columns, draw.train, table)
    near = resemblance(
        _trial(draw, table, seed), numpy_generator(seed, purpose="study resemblance")
    )
    shares = (
        {
            "mean DCR": near.dcr.mean,
            "nearer to a training row": near.nearer_to_train.value,
            "mean distance of other patients to training rows": near.patients_to_patients.mean,
        }
        if near
        else {}
    )
    return {
        "rows with an impossible value": found.num_rows_impossible / len(table),
        "rows that break a rule": found.num_rows_violating / len(table),
        "cells outside the training range": found.share_outside_training,
        **shares,
    }


def _attacks(
    config: StudyConfig, model: Synthesiser, draw: Draw, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    assert config.attacks is not None
    found = {}
    total = sum(config.rows.values())
    for released in config.attacks.released:
        counts = {name: round(rows / total * released) for name, rows in config.rows.items()}
        table = model.sample(class_counts=_rows(draw.columns, counts), seed=seed)
        risks = membership_risks(_trial(draw, table, seed))
        found[str(released)] = {f"{risk.name} {risk.group}": asdict(risk) for risk in risks}
    return found


def _trial(draw: Draw, table: pd.DataFrame, seed: int) -> Trial:
    return make_trial(
        draw.columns,
        members=draw.train,
        synthetic=table,
        holdout=draw.holdout,
        reference=draw.reference,
        seed=seed,
    )


def _rows(columns: Columns, wanted: dict[str, int]) -> dict[Any, int]:
    return {columns.classes[class_code(columns, name)]: rows for name, rows in wanted.items()}
