"""What the synthetic rows are worth: models trained on them, tested on real patients.

| name | trained on | tested on |
|---|---|---|
| TSTR | synthetic rows | real patients |
| TRTR | the real training rows | the same patients |
| TRTR, balanced | the real training rows, `class_weight="balanced"` | the same patients |

The third is the control that papers leave out: a synthetic table is mostly drawn with as many rows
of each class, and beats imbalanced real rows for that reason alone; so do weights, without any
synthesis (on PhysioNet 2019 they account for the whole gain of a linear SVM).

TSTR and TRTR: Esteban, Hyland and Rätsch 2017, arXiv:1706.02633. Intervals: `areas.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from fedward.common.randomness import seed_for
from fedward.common.task import Metric
from fedward.synth.evaluation.areas import Area, area, mean_area, mean_difference, undefined
from fedward.synth.evaluation.learners import LEARNERS, ClassWeight, Learner, fit, scores
from fedward.synth.evaluation.tables import Tables, TestName, missing_class
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns

Name = TypeVar("Name", bound=str)
Arm = Literal["tstr", "trtr", "trtr_balanced"]
Step = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""
MEAN = "mean"
"""The name of the mean over learners."""
MAX_FIT_ROWS = 3000
"""Rows that a learner is trained on, at most: a kernel costs their square."""


@dataclass(frozen=True)
class Comparison:
    """One learner (or the mean of all) on one table of patients; every figure is an AUROC."""

    test: TestName
    learner: str
    title: str
    tstr: Metric
    trtr: Metric
    trtr_balanced: Metric
    difference: Metric
    """TSTR minus TRTR."""
    difference_balanced: Metric
    """TSTR minus TRTR with balanced classes: what synthesis adds to weights."""
    tstr_by_seed: tuple[float | None, ...]
    trtr_by_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class Utility:
    """All comparisons; for each table of patients the mean over learners comes last."""

    comparisons: tuple[Comparison, ...]
    num_seeds: int
    num_train: int
    """Real rows that each learner was trained on."""
    num_synthetic: int
    """Synthetic rows that each learner was trained on."""
    reason: str | None = None
    """Why there are no comparisons."""

    def mean(self, test: TestName) -> Comparison | None:
        """Return the mean over learners on a table of patients, if there is one."""
        found = (c for c in self.comparisons if (c.test, c.learner) == (test, MEAN))
        return next(found, None)


@dataclass(frozen=True)
class Training:
    """One training: of what, how, and with which seed."""

    learner: Learner
    class_weight: ClassWeight = None
    seed: int = 0


def evaluate_utility(
    columns: Columns,
    tables: Tables,
    *,
    seed: int,
    learners: Sequence[Learner] = LEARNERS,
    step: Step = lambda _share: None,
) -> Utility:
    """Return how learners do when trained on synthetic and on real rows.

    Args:
        columns: of all tables.
        tables: of which `holdout` is the internal and `external` the external test. Each table
            of `synthetic` is one seed: of the synthesis, and with it of the learner.
        seed: of the learners.
        learners: their names differ.
        step: called after each learner.
    """
    reason = why_no_utility(columns, tables)
    if reason is not None:
        return Utility((), len(tables.synthetic), 0, 0, reason)
    areas: dict[tuple[Arm, TestName], list[list[Area]]] = {
        (arm, test): [[] for _ in tables.synthetic]
        for arm in ("tstr", "trtr", "trtr_balanced")
        for test in tables.tests
    }
    for index, learner in enumerate(learners):
        for arm in ("tstr", "trtr", "trtr_balanced"):
            for number, found in enumerate(_by_seed(columns, tables, arm, learner, seed)):
                for test, one in found.items():
                    areas[arm, test][number].append(one)
        step((index + 1) / len(learners))
    return Utility(
        tuple(c for test in tables.tests for c in _comparisons(test, areas, learners)),
        len(tables.synthetic),
        min(len(tables.train), MAX_FIT_ROWS),
        min(len(tables.synthetic[0]), MAX_FIT_ROWS),
    )


def why_no_utility(columns: Columns, tables: Tables) -> str | None:
    """Return why no model can be trained and tested; None where one can."""
    if columns.label is None:
        return "the table has no label that a model could be trained for"
    if not tables.tests:
        return "there are no real patients to test on: give a holdout or another site's table"
    absent = missing_class(columns, tables.train)
    return None if absent is None else f"no training patient is of class {absent}"


def trained_areas(
    columns: Columns, table: pd.DataFrame, tests: Mapping[Name, pd.DataFrame], training: Training
) -> dict[Name, Area]:
    """Return the AUROC on each table of patients of a learner that is trained on `table`.

    They are undefined where `table` lacks a class. Of more than `MAX_FIT_ROWS` rows that many
    are drawn.
    """
    if len(table) > MAX_FIT_ROWS:
        rng = np.random.default_rng(training.seed)
        table = table.iloc[np.sort(rng.choice(len(table), MAX_FIT_ROWS, replace=False))]
    absent = missing_class(columns, table)
    if absent is not None:
        reason = f"no row of class {absent} to train on"
        return {name: undefined(reason, len(test)) for name, test in tests.items()}
    model = fit(
        training.learner,
        columns,
        table,
        class_weight=training.class_weight,
        seed=training.seed % 2**32,
    )
    return {
        name: area(class_codes(columns, test), scores(model, test)) for name, test in tests.items()
    }


def _by_seed(
    columns: Columns, tables: Tables, arm: Arm, learner: Learner, seed: int
) -> list[dict[TestName, Area]]:
    """Return the areas of one arm for each seed."""
    found: list[dict[TestName, Area]] = []
    for number, synthetic in enumerate(tables.synthetic):
        is_same = arm != "tstr" and not learner.is_random and len(tables.train) <= MAX_FIT_ROWS
        if found and is_same:
            found.append(found[0])
            continue
        own_seed = seed_for(seed, purpose=f"utility {learner.name}", round_number=number)
        training = Training(learner, "balanced" if arm == "trtr_balanced" else None, own_seed)
        table = synthetic if arm == "tstr" else tables.train
        found.append(trained_areas(columns, table, tables.tests, training))
    return found


def _comparisons(
    test: TestName,
    areas: dict[tuple[Arm, TestName], list[list[Area]]],
    learners: Sequence[Learner],
) -> list[Comparison]:
    """Return one comparison per learner, and their mean."""

    def compare(name: str, title: str, index: int | slice) -> Comparison:
        chosen = slice(index, index + 1) if isinstance(index, int) else index
        tstr, trtr, balanced = (
            [seed[chosen] for seed in areas[arm, test]] for arm in ("tstr", "trtr", "trtr_balanced")
        )
        return Comparison(
            test,
            name,
            title,
            mean_area(tstr),
            mean_area(trtr),
            mean_area(balanced),
            mean_difference(tstr, trtr),
            mean_difference(tstr, balanced),
            tuple(mean_area([seed]).value for seed in tstr),
            tuple(mean_area([seed]).value for seed in trtr),
        )

    each = [compare(one.name, one.title, index) for index, one in enumerate(learners)]
    return [*each, compare(MEAN, "Mean of the learners", slice(None))]
