"""Real and synthetic rows mixed: what happens as one replaces the other (the paper's table 5)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedward.common.randomness import numpy_generator, seed_for
from fedward.common.task import Metric
from fedward.synth.evaluation.areas import mean_area
from fedward.synth.evaluation.learners import Learner, learner_named
from fedward.synth.evaluation.tables import Tables, TestName
from fedward.synth.evaluation.utility import Step, Training, trained_areas, why_no_utility
from fedward.synth.tables.columns import Columns

SHARES_REAL = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
PAPERS_LEARNER = learner_named("svm-rbf")


@dataclass(frozen=True)
class MixingPoint:
    """The AUROC after training on one mixture."""

    share_real: float
    test: TestName
    auroc: Metric
    by_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class Mixing:
    """The curve, for each table of patients from real rows only to synthetic rows only."""

    learner: str
    title: str
    num_rows: int
    """Rows of each mixture."""
    points: tuple[MixingPoint, ...]


def evaluate_mixing(
    columns: Columns,
    tables: Tables,
    *,
    seed: int,
    learner: Learner = PAPERS_LEARNER,
    step: Step = lambda _share: None,
) -> Mixing | None:
    """Return the AUROC at each share of real rows; None where nothing can be trained and tested.

    All mixtures have the same number of rows, that of the smaller table, so that a curve does not
    rise just because rows are added (the paper leaves their number open). They are drawn anew for
    each synthetic table.

    Args:
        columns: of all tables.
        tables: one seed per synthetic table.
        seed: of the draws and the learner.
        learner: what is trained.
        step: called after each share.
    """
    if why_no_utility(columns, tables) is not None:
        return None
    num_rows = min(len(tables.train), *(len(table) for table in tables.synthetic))
    points = []
    for index, share in enumerate(SHARES_REAL):
        found = []
        for number, synthetic in enumerate(tables.synthetic):
            rng = numpy_generator(seed, purpose=f"mixing {share}", round_number=number)
            table = mixture(tables.train, synthetic, round(share * num_rows), num_rows, rng)
            own_seed = seed_for(seed, purpose="mixing", round_number=number)
            training = Training(learner, seed=own_seed)
            found.append(trained_areas(columns, table, tables.tests, training))
        for test in tables.tests:
            areas = [[one[test]] for one in found]
            by_seed = tuple(one[0].metric.value for one in areas)
            points.append(MixingPoint(share, test, mean_area(areas), by_seed))
        step((index + 1) / len(SHARES_REAL))
    in_order = sorted(points, key=lambda point: list(tables.tests).index(point.test))
    return Mixing(learner.name, learner.title, num_rows, tuple(in_order))


def mixture(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    num_real: int,
    num_rows: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return `num_real` rows of `real` and the others of `synthetic`, none twice."""
    drawn = [
        table.iloc[np.sort(rng.choice(len(table), size, replace=False))]
        for table, size in ((real, num_real), (synthetic, num_rows - num_real))
        if size
    ]
    return pd.concat(drawn, ignore_index=True)
