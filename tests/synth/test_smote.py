"""SMOTE against its definition: points on lines between neighbours of a class."""

import inspect

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

from fedward.common.errors import ConfigError
from fedward.synth.tables import smote
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.methods import synthesisers
from fedward.synth.tables.smote import SMOTE
from tests.synth.clinic import CLINIC, patients

NAMES = ["x0", "x1", "x2"]
COLUMNS = Columns(tuple(Column(name, "continuous") for name in NAMES), "y", (0, 1), ("well", "ill"))


def two_clouds(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < n // 3).astype(int)
    return pd.DataFrame(rng.normal(size=(n, 3)) + 2.0 * y[:, None], columns=NAMES).assign(y=y)


def distance_from_lines(point: np.ndarray, rows: np.ndarray, nearest: np.ndarray) -> float:
    """Return how far a point is from the nearest line between a row and one of its neighbours."""
    start = np.repeat(rows, nearest.shape[1], axis=0)
    way = rows[nearest.ravel()] - start
    share = np.clip(((point - start) * way).sum(axis=1) / (way**2).sum(axis=1), 0, 1)
    return float(np.linalg.norm(start + share[:, None] * way - point, axis=1).min())


@pytest.mark.parametrize("k", [1, 4])
def test_each_row_lies_between_a_patient_and_one_of_its_nearest_of_the_same_class(k: int) -> None:
    rows = two_clouds()
    made = SMOTE(COLUMNS, k=k).fit(rows).sample(200, class_counts="balanced", seed=1)
    scale = rows[NAMES].std(ddof=0).to_numpy()
    for label, group in made.groupby("y"):
        own = rows.loc[rows["y"] == label, NAMES].to_numpy() / scale
        nearest = NearestNeighbors(n_neighbors=k).fit(own).kneighbors(return_distance=False)
        far = [distance_from_lines(x / scale, own, nearest) for x in group[NAMES].to_numpy()]
        assert max(far) < 1e-6
    # A row of the other class lies on none of them.
    other = made.loc[made["y"] == 0, NAMES].to_numpy()[0] / scale
    assert distance_from_lines(other, own, nearest) > 0.01


def test_places_on_a_line_are_uniform() -> None:
    rows = pd.DataFrame({"x0": [0.0] * 10 + [1.0] * 10})
    model = SMOTE(Columns((Column("x0", "continuous", decimals=9),)), k=19).fit(rows)
    made = model.sample(20_000, seed=1)["x0"].to_numpy()
    inner = made[(made > 0) & (made < 1)]
    # Every other neighbour is on the other side: 10 of 19.
    assert len(inner) / len(made) == pytest.approx(10 / 19, abs=5 * 0.5 / np.sqrt(20_000))
    counts = np.histogram(inner, bins=10, range=(0, 1))[0]
    statistic = ((counts - len(inner) / 10) ** 2).sum() / (len(inner) / 10)
    assert statistic < 45.1  # chi-square with 9 degrees of freedom, error rate 1e-6


def test_a_category_is_the_commonest_of_the_neighbours() -> None:
    x = np.concatenate([np.linspace(0, 0.5, 6), np.linspace(100, 100.5, 6)])
    rows = pd.DataFrame({"x": x, "c": ["a"] * 5 + ["b"] + ["b"] * 6})
    columns = Columns(
        (Column("x", "continuous"), Column("c", "categorical", categories=("a", "b")))
    )
    made = SMOTE(columns, k=5, min_class_size=10).fit(rows).sample(300, seed=1)
    # The row of another category among its neighbours is outvoted: its children are as they are.
    assert set(made.loc[made["x"] < 50, "c"]) == {"a"}
    assert set(made.loc[made["x"] > 50, "c"]) == {"b"}


def test_a_row_lacks_what_its_parent_lacks_and_keeps_to_bounds_and_constraints() -> None:
    rows = patients()
    made = SMOTE(CLINIC).fit(rows).sample(2000, class_counts="balanced", seed=1)
    for septic in (0, 1):
        expected = rows.loc[rows["septic"] == septic, "lactate"].notna().mean()
        measured = made.loc[made["septic"] == septic, "lactate"].notna().sum()
        assert binomtest(int(measured), 1000, expected).pvalue > 1e-6
    assert (made["systolic"] >= made["diastolic"]).all()
    for column in CLINIC.continuous:
        assert column.low is not None
        assert column.high is not None
        assert made[column.name].dropna().between(column.low, column.high).all()
    assert SMOTE(CLINIC, missing="median").fit(rows).sample(50, seed=1).notna().all(axis=None)


@pytest.mark.parametrize("k", [0, 20, 2.5])
def test_more_neighbours_than_the_smallest_class_could_have_are_refused(k: float) -> None:
    with pytest.raises(ConfigError, match=r"k: given .* less than min_class_size"):
        SMOTE(COLUMNS, k=k).fit(two_clouds())  # type: ignore[arg-type]


def test_it_says_wherever_it_is_named_that_it_protects_nobody() -> None:
    label = "augmentation only, not private"
    told = (inspect.getdoc(smote), inspect.getdoc(SMOTE), synthesisers["smote"].about)
    assert all(label in (one or "") for one in told)
    assert SMOTE.holds_patients
