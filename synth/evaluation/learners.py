"""The learners that a synthetic table is judged with: those of the paper, and a plain regression.

Random forest, SVM with a linear and with an rbf kernel: KDE-KNN paper, section 3.3, with its
tuned parameters (200 trees instead of 500, which changes AUROCs by less than the seed does).

Legend: N rows, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from fedward.synth.evaluation.encoding import numeric_form
from fedward.synth.tables.checks import class_codes
from fedward.synth.tables.columns import Columns

Floats = npt.NDArray[np.float64]
ClassWeight = Literal["balanced"] | None
NUM_TREES = 200
_FOREST = {
    "n_estimators": NUM_TREES,
    "bootstrap": False,
    "max_depth": 20,
    "min_samples_leaf": 5,
    "min_samples_split": 12,
    "n_jobs": 1,
}
_FOREST_FEATURES = 5


@dataclass(frozen=True)
class Learner:
    """One way of learning the label from the columns."""

    name: str
    title: str
    make: Callable[[int, ClassWeight, int], Any]
    """From the number of encoded columns, the weights of the classes and a seed."""
    is_random: bool = False
    """Whether the seed changes what is learned from the same rows."""


def forest(num_features: int, class_weight: ClassWeight, seed: int) -> RandomForestClassifier:
    """Return an unfitted random forest with the paper's parameters."""
    return RandomForestClassifier(
        max_features=min(_FOREST_FEATURES, num_features),
        class_weight=class_weight,
        random_state=seed,
        **_FOREST,
    )


LEARNERS = (
    Learner("random-forest", "Random forest", forest, is_random=True),
    Learner(
        "svm-linear",
        "SVM, linear kernel",
        lambda _num, weight, _seed: SVC(kernel="linear", class_weight=weight),
    ),
    Learner(
        "svm-rbf",
        "SVM, rbf kernel",
        lambda _num, weight, _seed: SVC(kernel="rbf", class_weight=weight),
    ),
    Learner(
        "logistic-regression",
        "Logistic regression",
        lambda _num, weight, _seed: LogisticRegression(class_weight=weight, max_iter=5000),
    ),
)


def learner_named(name: str) -> Learner:
    """Return the learner of that name; there must be one."""
    return next(learner for learner in LEARNERS if learner.name == name)


def fit(
    learner: Learner,
    columns: Columns,
    table: pd.DataFrame,
    *,
    class_weight: ClassWeight = None,
    seed: int,
) -> Pipeline:
    """Return the learner fitted on `table`, of which it also takes medians and deviations.

    So what is tested elsewhere is scaled by the training rows, and a learner that is trained on
    synthetic rows has seen nothing else.

    Args:
        learner: which.
        columns: of the table.
        table: rows of every class.
        class_weight: `balanced`: a class counts the same however few its rows are.
        seed: of the learner.
    """
    width = len(columns.continuous) + sum(len(c.categories) for c in columns.categorical)
    model = make_pipeline(numeric_form(columns), learner.make(width, class_weight, seed))
    return model.fit(table, class_codes(columns, table))


def scores(model: Pipeline, table: pd.DataFrame) -> Floats:
    """Return (N, C) scores, higher where the class is more likely.

    They order rows within a class and are no probabilities: a kernel machine gives distances.
    """
    if hasattr(model, "predict_proba"):
        probability_NC: Floats = model.predict_proba(table)
        return probability_NC
    found: Floats = model.decision_function(table)
    return np.stack([-found, found], axis=1) if found.ndim == 1 else found
