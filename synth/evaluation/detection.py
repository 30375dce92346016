"""How well a classifier tells synthetic rows from patients: 0.5 it cannot, 1 it always can.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545), with a random forest
on values and on what is missing. A high score is no fault of itself: a guarded synthesiser changes
rows on purpose. A score below 0.5 is a sign of copies: a row's twin in the other table
misleads the forest about it.
"""

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold

from fedward.common.metrics import auroc
from fedward.common.randomness import numpy_generator, seed_for
from fedward.common.task import Metric
from fedward.synth.evaluation.encoding import numeric_form
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns

NUM_FOLDS = 5
MAX_ROWS = 1000
"""Of each of the two tables."""
_FOREST = RandomForestClassifier(n_estimators=60, min_samples_leaf=3, n_jobs=1)


def detection(
    columns: Columns, real: pd.DataFrame, synthetic: pd.DataFrame, *, seed: int
) -> Metric:
    """Return the AUROC of real against synthetic, cross-validated, with its interval over rows.

    As many rows of each class are drawn from both tables, so that a balanced table is not
    recognised by its balance. `n` is the number of rows drawn.

    Args:
        columns: of both tables; the label itself is not shown to the forest.
        real: training rows.
        synthetic: the rows to be released.
        seed: of the draw, the folds and the forest.
    """
    rng = numpy_generator(seed, purpose="detection")
    drawn = matched(columns, real, synthetic, rng)
    if len(drawn[0]) < 2 * NUM_FOLDS:
        return Metric(None, n=2 * len(drawn[0]), reason="too few rows of the same classes")
    both = pd.concat(drawn, ignore_index=True)
    is_synthetic = np.repeat([False, True], [len(table) for table in drawn])
    missing = both[list(columns.names)].isna().to_numpy(dtype=np.float64)
    values = np.hstack([numeric_form(columns).fit_transform(both), missing])
    random_state = seed_for(seed, purpose="detection forest") % 2**32
    score = np.zeros(len(both))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=random_state)
    for known, tested in folds.split(values, is_synthetic):
        forest = clone(_FOREST).set_params(random_state=random_state)
        forest.fit(values[known], is_synthetic[known])
        score[tested] = forest.predict_proba(values[tested])[:, 1]
    return auroc(is_synthetic, score)


def matched(
    columns: Columns, real: pd.DataFrame, synthetic: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows of both tables, as many of each class, at most `MAX_ROWS` of a table."""
    codes = [
        np.zeros(len(table), dtype=np.int64)
        if columns.label is None
        else class_codes(columns, table)
        for table in (real, synthetic)
    ]
    sizes = np.array([np.bincount(c, minlength=max(len(columns.classes), 1)) for c in codes])
    wanted = sizes.min(axis=0)
    wanted = np.floor(wanted * min(1.0, MAX_ROWS / max(wanted.sum(), 1))).astype(int)
    first, second = (
        np.concatenate(
            [
                rng.choice(np.flatnonzero(code == k), size, replace=False)
                for k, size in enumerate(wanted)
            ]
        )
        for code in codes
    )
    return real.iloc[np.sort(first)], synthetic.iloc[np.sort(second)]
