"""Small tables of patients, and synthesisers whose faults are known."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.constraints import Constraint

NAMES = ("mean radius", "mean texture", "mean smoothness", "worst area", "worst concavity")


def breast_cancer() -> tuple[Columns, pd.DataFrame]:
    """Return scikit-learn's 569 patients in random order: five measures and one category."""
    data = load_breast_cancer(as_frame=True)
    rows = data.data[list(NAMES)].rename(columns=lambda name: name.replace(" ", "_"))
    rows["texture"] = np.where(data.data["mean texture"] > 19, "coarse", "fine")
    rows["malignant"] = 1 - data.target
    columns = Columns(
        (
            *(Column(name.replace(" ", "_"), "continuous", low=0.0) for name in NAMES),
            Column("texture", "categorical", categories=("fine", "coarse")),
        ),
        label="malignant",
        classes=(0, 1),
        class_names=("benign", "malignant"),
        constraints=(Constraint.parse("worst_area >= mean_radius"),),
    )
    return columns, rows.sample(frac=1, random_state=7).reset_index(drop=True)


def halves() -> tuple[Columns, pd.DataFrame, pd.DataFrame]:
    """Return the columns, training rows and as many holdout rows."""
    columns, rows = breast_cancer()
    return columns, rows[:284].reset_index(drop=True), rows[284:568].reset_index(drop=True)


def bootstrap(train: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Return training rows, drawn with replacement: a copy."""
    return train.sample(n, replace=True, random_state=seed).reset_index(drop=True)


def gaussian_per_class(
    columns: Columns, train: pd.DataFrame, n: int, seed: int, *, balanced: bool = False
) -> pd.DataFrame:
    """Return rows of one normal distribution per class; categories independent of numbers.

    Values below a public bound are reflected at it, so that nothing is impossible.
    """
    rng = np.random.default_rng(seed)
    label = str(columns.label)
    parts = []
    for name in columns.classes:
        own = train[train[label] == name]
        share = 1 / len(columns.classes) if balanced else len(own) / len(train)
        size = round(n * share)
        numbers = [column.name for column in columns.continuous]
        mean, covariance = own[numbers].mean(), own[numbers].cov()
        part = pd.DataFrame(rng.multivariate_normal(mean, covariance, size), columns=numbers)
        for column in columns.continuous:
            if column.low is not None:
                part[column.name] = column.low + (part[column.name] - column.low).abs()
        for column in columns.categorical:
            part[column.name] = own[column.name].sample(size, replace=True, random_state=seed).array
        part[label] = name
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def constant(train: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return one training row of each class, over and over, all with the first one's values."""
    rows = train.iloc[np.zeros(n, dtype=int)].reset_index(drop=True)
    rows["malignant"] = np.arange(n) % 2
    return rows


def shuffled(columns: Columns, train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the training rows with labels that have nothing to do with them."""
    label = str(columns.label)
    rng = np.random.default_rng(seed)
    return train.assign(**{label: rng.permutation(train[label].to_numpy())})
