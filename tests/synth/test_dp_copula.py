"""The copula with differential privacy: what it keeps of a table, and what it promises."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp, spearmanr
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.tables.schema import load_schema
from fedward.synth.tables.artefact import read_header
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.dp_copula import DeltaWarning, DPGaussianCopula
from fedward.synth.tables.methods import name_of, new_synthesiser
from tests.synth.clinic import CLINIC, patients

TRAIN = patients()


def fitted(epsilon: float, train: pd.DataFrame = TRAIN, **parameters: object) -> DPGaussianCopula:
    model = DPGaussianCopula(CLINIC, epsilon=epsilon, noise_seed=1, **parameters)  # type: ignore[arg-type]
    return model.fit(train)


def check_rows(rows: pd.DataFrame, columns: Columns = CLINIC) -> None:
    """Every cell is one that the schema allows."""
    assert list(rows.columns) == [*columns.names, columns.label]
    for column in columns.continuous:
        known = rows[column.name].dropna()
        assert np.isfinite(known).all()
        assert column.low is not None
        assert column.high is not None
        assert known.between(column.low, column.high).all(), column.name
        assert known.tolist() == np.round(known, column.decimals or 0).tolist()
    for column in columns.categorical:
        assert set(rows[column.name].dropna()) <= set(column.categories)
    assert set(rows[columns.label]) <= set(columns.classes)
    for rule in columns.constraints:
        assert rule.holds(rows).all()


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.3, 1.0, 8.0, 300.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_budget_ends_with_rows_that_can_be(epsilon: float, seed: int) -> None:
    model = DPGaussianCopula(CLINIC, epsilon=epsilon, noise_seed=seed).fit(TRAIN)
    check_rows(model.sample(300, class_counts="balanced", seed=seed))
    assert all(size >= 1 for size in model.class_sizes_)
    assert np.isfinite(model.classes_[0].factor_DD).all()


def test_with_a_large_budget_classes_differ_as_in_the_training_rows() -> None:
    train = patients(4000)
    rows = fitted(50.0, train).sample(4000, class_counts="balanced", seed=2)
    for code in (0, 1):
        own, made = train[train["septic"] == code], rows[rows["septic"] == code]
        for name in ("age", "systolic", "crp"):
            distance = ks_2samp(own[name].dropna(), made[name].dropna()).statistic
            assert distance < 0.1, name
        for name in ("crp", "lactate"):
            assert made[name].isna().mean() == pytest.approx(own[name].isna().mean(), abs=0.05)
        assert (made["stage"] == "high").mean() == pytest.approx(
            (own["stage"] == "high").mean(), abs=0.06
        )


def test_with_a_large_budget_columns_go_together_as_in_the_training_rows() -> None:
    train = patients(4000)
    rows = fitted(50.0, train).sample(4000, seed=2)
    rank = {"low": 0, "middle": 1, "high": 2}
    for first, second in (("systolic", "diastolic"), ("age", "female")):
        expected = spearmanr(train[first], train[second]).statistic
        assert spearmanr(rows[first], rows[second]).statistic == pytest.approx(expected, abs=0.12)
    theirs, ours = (
        spearmanr(one["crp"], one["stage"].map(rank), nan_policy="omit").statistic
        for one in (train, rows)
    )
    assert ours == pytest.approx(theirs, abs=0.15)


def forest_auroc(epsilon: float, test: pd.DataFrame) -> float:
    rows = fitted(epsilon).sample(600, class_counts="balanced", seed=3)
    features = ["age", "systolic", "diastolic", "crp", "lactate"]
    forest = RandomForestClassifier(60, min_samples_leaf=5, random_state=0)
    forest.fit(rows[features].fillna(-1), rows["septic"])
    score = forest.predict_proba(test[features].fillna(-1))[:, 1]
    return float(roc_auc_score(test["septic"], score))


def test_a_larger_budget_teaches_more() -> None:
    test = patients(2000, seed=9)
    # 500 septic patients of 2,000: a standard error of 0.011 at 0.9, of 0.015 at 0.5.
    assert forest_auroc(100.0, test) > 0.85
    assert forest_auroc(1e-3, test) < 0.75


def test_the_noise_changes_each_time_unless_it_is_seeded() -> None:
    def sums(noise_seed: int | None) -> list[float]:
        model = DPGaussianCopula(CLINIC, epsilon=1.0, noise_seed=noise_seed).fit(TRAIN)
        return [float(one) for one in model.answers_[0].sums_D]

    assert sums(None) != sums(None)
    assert sums(5) == sums(5)


def test_the_seed_of_other_methods_does_not_fix_the_noise() -> None:
    first, second = (DPGaussianCopula(CLINIC, seed=3).fit(TRAIN) for _ in range(2))
    assert not np.array_equal(first.answers_[0].sums_D, second.answers_[0].sums_D)
    assert not first.privacy_claim().is_reproducible


def test_the_same_seed_of_a_sample_gives_the_same_rows() -> None:
    model = fitted(5.0)
    pd.testing.assert_frame_equal(model.sample(500, seed=4), model.sample(500, seed=4))
    chunks = model.sampling(500, seed=4).chunks(chunk_rows=77)
    pd.testing.assert_frame_equal(
        pd.concat(list(chunks), ignore_index=True), model.sample(500, seed=4)
    )


def test_the_claim_says_what_the_noise_is_worth() -> None:
    model = DPGaussianCopula(CLINIC, epsilon=2.5, delta=1e-6).fit(TRAIN)
    claim = model.privacy_claim()
    assert (claim.epsilon, claim.delta) == (2.5, 1e-6)
    assert not claim.is_reproducible
    assert "cryptographic" in claim.noise
    assert "add or remove one" in claim.neighbourhood
    assert "one row" in claim.unit
    assert all(name in claim.composition for name in ("location", "margins", "correlation"))
    assert fitted(2.5).privacy_claim().is_reproducible


def test_a_file_has_the_claim_in_its_header_and_nothing_of_the_patients(tmp_path: Path) -> None:
    model = DPGaussianCopula(CLINIC, epsilon=4.0).fit(TRAIN)
    model.save(tmp_path / "model.synth")
    header = read_header(tmp_path / "model.synth")
    assert header["privacy"] == json.loads(json.dumps(model.privacy_claim().to_dict()))
    assert not header["contains_patients"]
    again = DPGaussianCopula.load(tmp_path / "model.synth")
    assert again.privacy_claim() == model.privacy_claim()
    pd.testing.assert_frame_equal(again.sample(50, seed=1), model.sample(50, seed=1))


def test_everything_that_is_kept_follows_from_the_noisy_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two tables that share no patient, and the same answers: then the same model.
    answers = iter(2 * list(fitted(3.0).answers_))
    monkeypatch.setattr(
        "fedward.synth.tables.dp_release.ask", lambda *_args, **_settings: next(answers)
    )
    first, second = fitted(3.0), fitted(3.0, patients(900, seed=5))
    assert first.class_sizes_ == second.class_sizes_
    assert first.columns_ == second.columns_
    pd.testing.assert_frame_equal(first.sample(200, seed=1), second.sample(200, seed=1))


def test_class_sizes_are_noisy_as_well() -> None:
    sizes = {
        DPGaussianCopula(CLINIC, epsilon=1.0, noise_seed=seed).fit(TRAIN).class_sizes_
        for seed in range(4)
    }
    assert len(sizes) == 4


def test_a_small_class_is_refused_by_its_noisy_count_only() -> None:
    one_septic = TRAIN[TRAIN["septic"] == 0].assign(septic=lambda t: (t.index == t.index[0]) * 1)
    rows = fitted(3.0, one_septic).sample(100, class_counts="balanced", seed=1)
    assert (rows["septic"] == 1).sum() == 50
    with pytest.raises(SiteDataError, match="noisy count") as caught:
        fitted(3.0, one_septic, min_class_size=200)
    assert "spent" in str(caught.value)


def test_one_class_only_and_columns_that_are_never_measured_are_learned_all_the_same() -> None:
    train = TRAIN[TRAIN["septic"] == 0].assign(lactate=np.nan)
    rows = fitted(20.0, train).sample(200, seed=1)
    check_rows(rows)
    assert rows["lactate"].isna().mean() > 0.9
    assert (rows["septic"] == 0).mean() > 0.7


UNLABELLED = Columns(CLINIC.columns, constraints=CLINIC.constraints)
CATEGORIES = Columns(CLINIC.categorical, "septic", (0, 1), ("no sepsis", "sepsis"))


@pytest.mark.parametrize("columns", [UNLABELLED, CATEGORIES, Columns(CLINIC.columns[:1])])
def test_tables_without_a_label_without_numbers_or_of_one_column_work(columns: Columns) -> None:
    model = DPGaussianCopula(columns, epsilon=5.0, noise_seed=1).fit(TRAIN)
    rows = model.sample(100, seed=1)
    assert len(rows) == 100
    assert list(rows.columns)[: len(columns)] == list(columns.names)
    mu = math.sqrt(sum(answer.mu**2 for answer in model.answers_))
    whole = math.sqrt(sum(answer.mu**2 for answer in fitted(5.0).answers_))
    assert mu == pytest.approx(whole)  # queries that have nothing to ask cost nothing


def test_without_a_description_nothing_is_learned() -> None:
    with pytest.raises(ConfigError, match="schema"):
        DPGaussianCopula().fit(TRAIN)


def observed(column: Column) -> Columns:
    return CLINIC.with_column(column)


def test_observed_bounds_are_refused_unless_they_are_paid_for() -> None:
    columns = observed(Column("age", "continuous", 1.0, 99.0, decimals=0, bounds="observed"))
    with pytest.raises(ConfigError, match="bounds_share"):
        DPGaussianCopula(columns).fit(TRAIN)
    model = DPGaussianCopula(columns, epsilon=8.0, bounds_share=0.1, noise_seed=2).fit(TRAIN)
    assert model.columns_["age"].low in {0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0}
    assert model.columns_["age"].high == 128.0
    assert next(answer.name for answer in model.answers_) == "bounds"
    total = math.sqrt(sum(answer.mu**2 for answer in model.answers_))
    assert total == pytest.approx(math.sqrt(sum(one.mu**2 for one in fitted(8.0).answers_)))
    assert "bounds" in model.privacy_claim().composition
    check_rows(model.sample(100, seed=1), model.columns_)


def test_numbers_without_bounds_are_treated_as_observed_ones() -> None:
    with pytest.raises(ConfigError, match="bounds_share"):
        DPGaussianCopula(observed(Column("crp", "continuous", 0.0))).fit(TRAIN)


def test_bounds_that_cannot_be_found_for_the_price_are_an_error() -> None:
    columns = observed(Column("age", "continuous", bounds="observed"))
    with pytest.raises(SiteDataError, match="budget"):
        DPGaussianCopula(columns, epsilon=0.01, bounds_share=0.1, noise_seed=1).fit(TRAIN)


def test_observed_categories_are_refused() -> None:
    column = replace(CLINIC["stage"], bounds="observed")
    with pytest.raises(ConfigError, match="schema"):
        DPGaussianCopula(observed(column), bounds_share=0.1).fit(TRAIN)


def test_values_in_another_unit_are_refused() -> None:
    with pytest.raises(SiteDataError, match="unit"):
        DPGaussianCopula(CLINIC).fit(TRAIN.assign(crp=TRAIN["crp"] * 1000))


def test_no_rows_are_refused() -> None:
    with pytest.raises(NoPatientsError):
        DPGaussianCopula(CLINIC).fit(TRAIN[:0])


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", math.nan),
        ("delta", 0.0),
        ("delta", 1.0),
        ("bounds_share", 1.0),
        ("min_class_size", -1),
        ("noise_seed", -1),
        ("on_shortfall", "never"),
    ],
)
def test_parameters_out_of_range_are_refused(parameter: str, value: object) -> None:
    with pytest.raises(ConfigError, match=parameter):
        DPGaussianCopula(CLINIC, **{parameter: value}).fit(TRAIN)  # type: ignore[arg-type]


def test_a_delta_that_allows_to_publish_a_patient_is_warned_of() -> None:
    with pytest.warns(DeltaWarning, match="published"):
        DPGaussianCopula(CLINIC, epsilon=50.0, delta=0.005).fit(TRAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DPGaussianCopula(CLINIC, epsilon=50.0, delta=1e-5).fit(TRAIN)


def test_it_is_listed_and_can_be_cloned() -> None:
    model = new_synthesiser("dp-gaussian-copula", columns=CLINIC, epsilon=2.0)
    assert name_of(model) == "dp-gaussian-copula"
    assert clone(model).epsilon == 2.0


def test_a_schema_without_decimals_gives_numbers_that_are_not_rounded() -> None:
    columns = Columns.of_schema(load_schema("sepsis"), ("HR", "MAP", "Gender"))
    rng = np.random.default_rng(0)
    train = pd.DataFrame(
        {
            "HR": rng.normal(85, 10, 300).round(),
            "MAP": rng.normal(80, 9, 300).round(),
            "Gender": rng.integers(0, 2, 300),
            "sepsis": rng.integers(0, 2, 300),
        }
    )
    rows = DPGaussianCopula(columns, epsilon=20.0).fit(train).sample(50, seed=1)
    assert rows["HR"].between(10, 300).all()


@pytest.mark.slow
def test_rows_of_a_real_ward_teach_nearly_as_much_as_patients_at_epsilon_8(data_dir: Path) -> None:
    names = ("HR", "Temp", "SBP", "MAP", "Resp", "BUN", "Creatinine", "WBC", "Age", "Gender")
    columns = Columns.of_schema(load_schema("sepsis"), names)

    def hospital(letter: str) -> pd.DataFrame:
        path = data_dir / "physionet2019_sepsis" / f"hospital_{letter}_first9h.csv.gz"
        rows = pd.read_csv(path)
        return rows[~(rows["label_onset_hour"] <= 9)][[*names, "sepsis"]].reset_index(drop=True)

    a, b = hospital("A"), hospital("B")

    def auroc(train: pd.DataFrame) -> float:
        middle = a[list(names)].median()
        forest = RandomForestClassifier(100, min_samples_leaf=20, random_state=0)
        forest.fit(train[list(names)].fillna(middle), train["sepsis"])
        return float(
            roc_auc_score(b["sepsis"], forest.predict_proba(b[list(names)].fillna(middle))[:, 1])
        )

    model = DPGaussianCopula(columns, epsilon=8.0, noise_seed=1).fit(a)
    made = auroc(model.sample(4000, class_counts="balanced", seed=1))
    assert made > 0.55
    assert made > auroc(a.sample(4000, random_state=1)) - 0.05
