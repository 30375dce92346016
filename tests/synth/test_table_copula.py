"""The Gaussian copula and the class-wise normal distribution: what they keep and leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ks_2samp, pearsonr, spearmanr
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import load_schema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.copula import GaussianCopula
from fedward.synth.tables.gaussian import ClassGaussian
from fedward.synth.tables.latent import gaps_of, latent_correlation, nearest_correlation
from fedward.synth.tables.margins import (
    CategoryMargin,
    category_margin,
    knot_margin,
    knot_scores,
    normal_margin,
)
from tests.synth.clinic import CLINIC, Copier, patients

TRAIN = patients()
Method = type[GaussianCopula] | type[ClassGaussian]
METHODS: list[Method] = [GaussianCopula, ClassGaussian]
ANY_LIMIT = {"floor": -np.inf, "ceiling": np.inf}


def test_each_class_is_spread_as_in_the_training_rows() -> None:
    rows = GaussianCopula(CLINIC).fit(TRAIN).sample(800, class_counts="balanced", seed=1)
    for code in (0, 1):
        own, made = TRAIN[TRAIN["septic"] == code], rows[rows["septic"] == code]
        for column in CLINIC.continuous:
            found = ks_2samp(own[column.name].dropna(), made[column.name].dropna())
            assert found.pvalue > 1e-4, column.name
        for name in ("stage", "female"):
            for category in CLINIC[name].categories:
                share = float((own[name] == category).mean())
                count = int((made[name] == category).sum())
                assert binomtest(count, len(made), share).pvalue > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_columns_go_together_as_in_the_training_rows(method: Method) -> None:
    train = patients(2000)
    rows = method(CLINIC).fit(train).sample(4000, class_counts="balanced", seed=1)
    stage = CLINIC["stage"].categories
    for code in (0, 1):
        own, made = train[train["septic"] == code], rows[rows["septic"] == code]
        pairs = [("systolic", "diastolic"), ("crp", "stage"), ("age", "female")]
        for first, second in pairs:
            theirs, ours = (
                spearmanr(
                    part[first],
                    part[second].map(stage.index) if second == "stage" else part[second],
                    nan_policy="omit",
                ).statistic
                for part in (own, made)
            )
            # Four standard errors of either, 1 / sqrt(n), and .08 for shrinking and smoothing.
            assert ours == pytest.approx(theirs, abs=4 * np.sqrt(1 / len(own) + 1 / 2000) + 0.08)
        assert spearmanr(made["systolic"], made["diastolic"]).statistic > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_no_row_is_impossible(method: Method) -> None:
    rows = method(CLINIC).fit(TRAIN).sample(3000, seed=1)
    assert (rows["systolic"] >= rows["diastolic"]).all()
    for column in CLINIC.continuous:
        known = rows[column.name].dropna()
        assert column.low is not None
        assert column.high is not None
        assert known.between(column.low, column.high).all()
        assert (known == known.round(column.decimals or 0)).all()


@pytest.mark.parametrize("method", METHODS)
def test_cells_are_missing_as_often_and_with_the_class(method: Method) -> None:
    rows = method(CLINIC).fit(TRAIN).sample(2000, class_counts="balanced", seed=1)
    for code in (0, 1):
        own, made = TRAIN[TRAIN["septic"] == code], rows[rows["septic"] == code]
        for name in CLINIC.names:
            share = float(own[name].isna().mean())
            # Constraints refuse some rows, and missing cells break none: 2 points are allowed.
            error = 4 * np.sqrt(share * (1 - share) / len(made)) + 0.02
            assert made[name].isna().mean() == pytest.approx(share, abs=error)
    filled = method(CLINIC, missing="median").fit(TRAIN).sample(500, seed=1)
    assert not filled.isna().any().any()


@pytest.mark.parametrize("method", METHODS)
def test_tables_of_one_kind_of_column_are_learned(method: Method) -> None:
    for some in (CLINIC.continuous, CLINIC.categorical, CLINIC.columns[:1]):
        for columns in (Columns(some), Columns(some, "septic", (0, 1))):
            rows = method(columns).fit(TRAIN).sample(30, seed=1)
            assert len(rows) == 30


def test_columns_that_are_missing_together_stay_so() -> None:
    rng = np.random.default_rng(0)
    gone = rng.random(400) < 0.3
    train = TRAIN.assign(crp=TRAIN["crp"].mask(gone), lactate=TRAIN["crp"].mask(gone) / 30)
    train["age"] = train["age"].mask(rng.random(400) < 0.3)
    assert (train["crp"].isna() == train["lactate"].isna()).all()
    rows = GaussianCopula(CLINIC).fit(train).sample(1000, seed=1)
    assert (rows["crp"].isna() == rows["lactate"].isna()).all()
    assert not (rows["crp"].isna() == rows["age"].isna()).all()
    masks = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]], dtype=bool)
    assert gaps_of(masks).tolist() in ([1, -1, 0, 1], [0, -1, 1, 0])
    assert gaps_of(np.zeros((3, 2), dtype=bool)).tolist() == [-1, -1]


def gappy(n: int, seed: int) -> tuple[Columns, pd.DataFrame]:
    """Return rows of 20 measures with gaps of their own: nearly every mask is a signature."""
    rng = np.random.default_rng(seed)
    names = [f"lab_{place}" for place in range(20)]
    values = rng.normal(50, 10, (n, 20)).round()
    values[rng.random((n, 20)) < 0.5] = np.nan
    columns = Columns(tuple(Column(name, "continuous", 0, 100, 0) for name in names))
    return columns, pd.DataFrame(values, columns=names)


def masks_of(rows: pd.DataFrame) -> set[bytes]:
    return {mask.tobytes() for mask in rows.isna().to_numpy()}


@pytest.mark.parametrize(("method", "copies"), [(GaussianCopula, False), (Copier, True)])
def test_masks_of_single_patients_come_back_no_more_often_than_those_of_strangers(
    method: Callable[[Columns], Synthesiser], copies: bool
) -> None:
    columns, train = gappy(300, seed=0)
    _, strangers = gappy(300, seed=1)
    made = masks_of(method(columns).fit(train).sample(20_000, seed=2))
    members, others = masks_of(train), masks_of(strangers)
    seen, expected = len(members & made) / len(members), len(others & made) / len(others)
    # By chance, 20,000 of 2**20 masks come back, 1.9 %. Those of training rows come back a little
    # more often, 2.6 % over ten such tables: correlations know them. 6 % are 3.7 standard errors.
    assert expected < 0.06
    assert seen == 1.0 if copies else seen < 0.06


def outlier(name: str, value: float) -> pd.DataFrame:
    rows = TRAIN.copy()
    rows.loc[4, name] = value
    return rows


@pytest.mark.parametrize("described", [True, False])
def test_a_single_extreme_patient_is_not_given_away(described: bool) -> None:
    train = outlier("crp", 599.9)
    model = GaussianCopula(CLINIC if described else None).fit(
        train.drop(columns="septic"), train["septic"]
    )
    rows = model.sample(20_000, class_counts="balanced", seed=1)
    assert rows["crp"].max() < 599.9
    if not described:
        # Neither does the description tell it, nor the smallest value.
        age = model.columns_["age"]
        assert model.columns_["crp"].high is not None
        assert model.columns_["crp"].high < 599.9
        assert age.low is not None
        assert age.low != TRAIN["age"].min()
    copied = Copier(CLINIC).fit(train).sample(20_000, class_counts="balanced", seed=1)
    assert copied["crp"].max() == 599.9


def test_a_category_of_few_patients_is_generated_only_where_it_is_public() -> None:
    rare = TRAIN.assign(stage=TRAIN["stage"].where(TRAIN.index >= 4, "unheard of"))
    features, label = rare.drop(columns="septic"), rare["septic"]
    read_off = GaussianCopula().fit(features, label).sample(5000, seed=1)
    assert "unheard of" not in set(read_off["stage"])
    public = CLINIC.with_column(
        Column("stage", "categorical", categories=("low", "middle", "high", "unheard of"))
    )
    described = GaussianCopula(public).fit(features, label).sample(5000, seed=1)
    # Four of 400.
    assert binomtest(int((described["stage"] == "unheard of").sum()), 5000, 0.01).pvalue > 1e-4


def test_a_column_that_few_patients_of_a_class_have_is_missing_in_that_class() -> None:
    train = TRAIN.copy()
    septic = train.index[train["septic"] == 1]
    train.loc[septic[4:], "crp"] = np.nan
    rows = GaussianCopula(CLINIC).fit(train).sample(2000, class_counts="balanced", seed=1)
    assert rows.loc[rows["septic"] == 1, "crp"].isna().all()
    assert rows.loc[rows["septic"] == 0, "crp"].notna().any()


def test_knots_are_means_of_so_many_patients() -> None:
    x = np.sort(np.random.default_rng(0).normal(size=53))
    margin = knot_margin(x, knot_size=5, max_knots=100, **ANY_LIMIT)
    inner = margin.values_K[1:-1]
    assert len(inner) == 10
    groups = np.split(x, (np.linspace(0, 53, 11).astype(int))[1:-1])
    assert all(len(group) >= 5 for group in groups)
    assert inner == pytest.approx([group.mean() for group in groups])
    assert not np.isin(margin.values_K, x).any()
    assert np.isin(knot_margin(x, knot_size=1, max_knots=100, **ANY_LIMIT).values_K, x).any()


def test_few_knots_and_limits_are_kept() -> None:
    x = np.random.default_rng(0).exponential(size=1000)
    margin = knot_margin(x, knot_size=5, max_knots=7, floor=0.0, ceiling=2.0)
    assert len(margin.values_K) == 9
    assert margin.values_K[0] >= 0
    assert margin.values_K[-1] <= 2
    assert (np.diff(margin.values_K) >= 0).all()
    alone = knot_margin(x[:6], knot_size=5, max_knots=7, **ANY_LIMIT)
    assert alone.invert(np.array([-3.0, 3.0])) == pytest.approx(np.repeat(x[:6].mean(), 2))


def test_categories_have_their_shares_and_scores() -> None:
    margin = category_margin(np.array([2.0, 0.0, 1.0, 1.0]))
    code = margin.invert(np.random.default_rng(0).normal(size=10_000))
    assert np.bincount(code, minlength=4)[1] == 0
    assert np.bincount(code) / 10_000 == pytest.approx([0.5, 0, 0.25, 0.25], abs=0.025)
    # By hand: E[Z | Z < 0] = -sqrt(2 / pi).
    assert margin.scores()[:2] == pytest.approx([-np.sqrt(2 / np.pi), 0])
    latent = np.random.default_rng(1).normal(size=200_000)
    means = [latent[margin.invert(latent) == place].mean() for place in (0, 2, 3)]
    assert margin.scores()[[0, 2, 3]] == pytest.approx(means, abs=0.02)
    assert CategoryMargin(np.zeros(0)).scores() == pytest.approx([0])


@pytest.mark.parametrize("cut", [0.0, 1.0])
def test_the_correlation_behind_categories_is_found_and_without_correction_is_too_small(
    cut: float,
) -> None:
    rng = np.random.default_rng(0)
    true = 0.6
    first, noise = rng.normal(size=(2, 20_000))
    latent = np.column_stack([first, true * first + np.sqrt(1 - true**2) * noise])
    code = (latent[:, 1] > cut).astype(np.int64)
    scores = np.column_stack(
        [
            knot_scores(latent[:, 0]),
            category_margin(np.bincount(code).astype(float)).scores()[code],
        ]
    )
    known = np.ones((20_000, 2), dtype=bool)
    found = latent_correlation(scores - scores.mean(axis=0), known)[0, 1]
    assert found == pytest.approx(true, abs=0.03)
    assert pearsonr(scores[:, 0], scores[:, 1]).statistic < true - 0.1


@pytest.mark.parametrize(("pooling", "expected"), [(0.0, -0.9), (100.0, 0.0), (1e9, 0.85)])
def test_a_small_class_borrows_the_correlations_of_the_others(
    pooling: float, expected: float
) -> None:
    rng = np.random.default_rng(0)
    small = np.arange(4000) % 40 == 0  # 100 rows
    x, noise = rng.normal(size=(2, 4000))
    y = np.where(small, -0.95, 0.95) * x + 0.3 * noise
    train = pd.DataFrame({"x": x, "y": y, "c": small.astype(int)})
    columns = Columns((Column("x", "continuous"), Column("y", "continuous")), "c", (0, 1))
    model = GaussianCopula(columns, pooling=pooling).fit(train)
    rows = model.sample(class_counts={1: 4000}, seed=1)
    # Half its own and half of all, 3,900 of which have the opposite sign; 6 standard errors.
    assert rows["x"].corr(rows["y"]) == pytest.approx(expected, abs=0.1)


def test_correlations_of_few_pairs_shrink_and_of_none_are_zero() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=500)
    scores, known = np.column_stack([z, z, z]), np.ones((500, 3), dtype=bool)
    known[10:, 1] = False
    known[:, 2] = ~known[:, 1]
    scores = np.where(known, scores - scores[:10].mean(axis=0), 0)
    found = latent_correlation(scores, known)
    assert found[1, 2] == pytest.approx(0, abs=0.02)  # 0 before the matrix is made sound
    assert 0 < found[0, 1] < 0.5  # ten pairs in place of thirty
    assert found[0, 2] > 0.9


def test_a_matrix_that_is_no_correlation_becomes_one_near_by() -> None:
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    assert np.linalg.eigvalsh(impossible)[0] < 0
    found = nearest_correlation(impossible)
    assert np.linalg.eigvalsh(found)[0] > 0
    assert np.diag(found) == pytest.approx(1)
    assert np.sign(found).tolist() == np.sign(impossible).tolist()
    sound = np.array([[1, 0.5], [0.5, 1]])
    assert nearest_correlation(sound) is sound


def test_the_normal_margin_is_that_of_its_values() -> None:
    x = np.random.default_rng(0).normal(5, 2, 1000)
    margin = normal_margin(x)
    assert margin.invert(np.array([0.0, 1.0])) == pytest.approx([x.mean(), x.mean() + x.std()])


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"max_knots": 0}, "max_knots"),
        ({"knot_size": 0}, "knot_size"),
        ({"knot_size": 21}, "1 to"),
        ({"pooling": -1.0}, "pooling"),
    ],
)
def test_settings_that_mean_nothing_are_refused(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        GaussianCopula(CLINIC, **parameters).fit(TRAIN)


@pytest.mark.slow
def test_learned_at_one_hospital_a_forest_knows_the_other_as_well_as_from_real_patients(
    data_dir: Path,
) -> None:
    tables = {}
    for site in "AB":
        file = f"physionet2019_sepsis/hospital_{site}_first9h.csv.gz"
        table = pd.read_csv(data_dir / file)
        tables[site] = table[~(table["label_onset_hour"] <= 9)]
    rng = np.random.default_rng(0)
    known = tables["A"].notna().mean().to_dict()
    schema = load_schema("sepsis")
    names = tuple(f.name for f in schema.fields if f.kind == "continuous" and known[f.name] > 0.4)
    train = pd.concat(
        group.sample(size, random_state=1)
        for (_, group), size in zip(tables["A"].groupby("sepsis"), (832, 251), strict=True)
    )
    test = tables["B"].groupby("sepsis").sample(777, random_state=1)
    medians = train[list(names)].median()

    def area(rows: pd.DataFrame) -> float:
        forest = RandomForestClassifier(200, random_state=1)
        forest.fit(rows[list(names)].fillna(medians), rows["sepsis"])
        score = forest.predict_proba(test[list(names)].fillna(medians))[:, 1]
        return float(roc_auc_score(test["sepsis"], score))

    model = GaussianCopula(Columns.of_schema(schema, names)).fit(train)
    made = [model.sample(1080, class_counts="balanced", seed=seed) for seed in range(3)]
    assert np.mean([area(rows) for rows in made]) >= area(train) - 0.03
    shuffled = made[0].assign(sepsis=rng.permutation(made[0]["sepsis"]))
    assert area(shuffled) < area(train) - 0.03
