"""Margins, pairs, possible values and detection: by hand, by scipy, and switched off."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp, spearmanr

from fedward.synth.evaluation.associations import MIN_PAIRS, associations
from fedward.synth.evaluation.detection import detection
from fedward.synth.evaluation.fidelity import evaluate_fidelity
from fedward.synth.evaluation.margins import MIN_CELL, Margin, class_weights, margins
from fedward.synth.evaluation.plausibility import plausibility
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.constraints import Constraint
from tests.synth.evaluation_cohort import bootstrap, gaussian_per_class, halves

VITALS = Columns(
    (
        Column("sbp", "continuous", low=30.0, high=300.0),
        Column("dbp", "continuous", low=10.0, high=200.0),
        Column("crp", "continuous", low=1.0, high=40.0, bounds="observed"),
        Column("sex", "categorical", categories=("f", "m")),
    ),
    constraints=(Constraint.parse("sbp >= dbp"),),
)


def vitals(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    dbp = rng.normal(70, 10, n)
    return pd.DataFrame(
        {
            "sbp": dbp + rng.normal(50, 8, n).clip(1),
            "dbp": dbp,
            "crp": rng.uniform(1, 40, n),
            "sex": rng.choice(["f", "m"], n),
        }
    )


def of(found: tuple[Margin, ...], name: str) -> Margin:
    return next(one for one in found if one.name == name)


def test_numbers_are_compared_by_kolmogorov_and_smirnov_and_categories_by_variation() -> None:
    columns, train, holdout = halves()
    unlabelled = replace(columns, label=None)
    made = gaussian_per_class(columns, train, 284, seed=0)
    found = margins(unlabelled, train, made, holdout)
    for column in columns.continuous:
        margin = of(found, column.name)
        want = ks_2samp(train[column.name], made[column.name]).statistic
        assert margin.distance == pytest.approx(want)
        baseline = ks_2samp(train[column.name], holdout[column.name]).statistic
        assert margin.baseline == pytest.approx(baseline)
    share, of_made = ((rows["texture"] == "coarse").mean() for rows in (train, made))
    assert of(found, "texture").distance == pytest.approx(abs(share - of_made))


def test_a_table_that_is_balanced_on_purpose_has_the_margins_of_its_classes() -> None:
    columns, train, _ = halves()
    parts = [
        rows.sample(2000, replace=True, random_state=1) for _, rows in train.groupby("malignant")
    ]
    balanced = pd.concat(parts, ignore_index=True)
    weighted = of(margins(columns, train, balanced, None), "mean_radius").distance
    plain = of(margins(replace(columns, label=None), train, balanced, None), "mean_radius").distance
    assert weighted is not None
    assert plain is not None
    assert weighted < 0.03  # 1.6 / sqrt(2 x 2000) is exceeded once in a hundred
    assert plain > 0.08


def test_weights_add_up_and_leave_out_a_class_that_is_not_there() -> None:
    columns, train, _ = halves()
    weights = class_weights(columns, train, train)
    np.testing.assert_allclose(weights, 1 / len(train))
    benign = train[train["malignant"] == 0]
    assert class_weights(columns, train, benign).sum() == pytest.approx(1)


def test_missing_cells_are_counted_and_left_out_of_the_distance() -> None:
    real, made = vitals(), vitals()
    made.loc[:49, "crp"] = np.nan
    found = of(margins(VITALS, real, made, None), "crp")
    assert (found.missing_real, found.missing_synthetic) == (0, 0.25)
    assert found.distance == pytest.approx(ks_2samp(real["crp"], made["crp"].dropna()).statistic)
    made["crp"] = np.nan
    empty = of(margins(VITALS, real, made, None), "crp")
    assert (empty.distance, empty.picture, empty.missing_synthetic) == (None, None, 1)


def test_pictures_hide_bars_of_a_few_patients() -> None:
    real, made = vitals(300), vitals(300, seed=1)
    real.loc[:4, "sex"] = "x"
    columns = VITALS.with_column(Column("sex", "categorical", categories=("f", "m", "x")))
    found = margins(columns, real, made, None)
    sex = of(found, "sex").picture
    assert sex is not None
    assert sex.categories == ("f", "m", "x")
    assert sex.real[2] == 0
    assert sex.real[0] == pytest.approx((real["sex"] == "f").mean())
    sbp = of(found, "sbp").picture
    assert sbp is not None
    counts, _ = np.histogram(real["sbp"], sbp.edges)
    assert 0 < counts.min() < MIN_CELL
    for count, share in zip(counts, sbp.real, strict=True):
        assert share == pytest.approx(count / 300 if count >= MIN_CELL else 0)
    assert sbp.edges[0] > real["sbp"].min()  # the last percent is nobody's in particular


def test_associations_are_those_of_scipy_and_of_the_textbook() -> None:
    columns, train, _ = halves()
    found = associations(columns, train, train, None)
    real_DD = np.array(found.real)
    place = {name: index for index, name in enumerate(found.names)}
    want = spearmanr(train["mean_radius"], train["worst_concavity"]).statistic
    assert real_DD[place["mean_radius"], place["worst_concavity"]] == pytest.approx(want)
    table = pd.crosstab(train["texture"], train["malignant"]).to_numpy().astype(float)
    (a, b), (c, d) = table
    phi = abs(a * d - b * c) / np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    assert real_DD[place["texture"], place["malignant"]] == pytest.approx(phi)
    # With two categories eta is the size of the correlation with their code.
    eta = abs(np.corrcoef(train["worst_area"].rank(), train["malignant"])[0, 1])
    assert real_DD[place["worst_area"], place["malignant"]] == pytest.approx(eta)
    np.testing.assert_allclose(real_DD, real_DD.T)
    assert found.mean_difference == 0


def test_rows_with_gaps_count_for_the_pairs_that_they_have() -> None:
    real = vitals()
    real.loc[::3, "sbp"] = np.nan
    both = real.dropna()
    found = associations(VITALS, real, real, None).real[0][1]
    # Ranks are those of each whole column, so that this is near, not equal.
    assert found == pytest.approx(spearmanr(both["sbp"], both["dbp"]).statistic, abs=0.01)
    real.loc[MIN_PAIRS - 1 :, "sbp"] = np.nan
    assert np.isnan(associations(VITALS, real, vitals(), None).real[0][1])


def test_independent_columns_lose_the_associations_and_holdout_patients_do_not() -> None:
    columns, train, holdout = halves()
    rng = np.random.default_rng(0)
    apart = pd.DataFrame(
        {name: rng.permutation(train[name].to_numpy()) for name in train.columns}
    ).assign(malignant=train["malignant"])
    found = associations(columns, train, apart, holdout)
    assert found.baseline is not None
    assert found.mean_difference is not None
    assert found.baseline < 0.05
    assert found.mean_difference > 0.3
    at = found.names.index("mean_radius"), found.names.index("worst_area")
    assert found.difference_DD[at] < -0.8


def test_a_constant_column_has_no_association() -> None:
    real, made = vitals(), vitals()
    made["sbp"], made["sex"] = 120.0, "f"
    found = associations(VITALS, real, made, None)
    difference_DD = found.difference_DD
    assert np.isnan(difference_DD[0]).all()
    assert np.isnan(difference_DD[3, :3]).all()
    assert np.isfinite(difference_DD[1, 2])


def test_impossible_values_and_broken_rules_are_counted_and_the_merely_new_is_not() -> None:
    real, made = vitals(), vitals()
    made.loc[0, "sbp"] = 999.0  # beyond a public bound
    made.loc[1, "sbp"] = 5.0  # below one, and below its diastolic pressure
    made.loc[2, "crp"] = -0.5  # no patient's is negative
    made.loc[3, "crp"] = 55.0  # beyond what was observed: new, and possible
    made.loc[4, "sex"] = "z"
    made.loc[5, "dbp"] = np.inf
    made.loc[6, "dbp"] = np.nan
    found = plausibility(VITALS, real, made)
    by_name = {one.name: one for one in found.ranges}
    counts = {name: one.num_impossible for name, one in by_name.items()}
    assert counts == {"sbp": 2, "dbp": 1, "crp": 1, "sex": 1}
    assert found.num_rows_impossible == 5
    assert by_name["crp"].num_outside_training == 2
    assert by_name["dbp"].num_values == 199
    assert found.constraints[0].num_synthetic == 2
    assert found.num_rows_violating == 2
    assert plausibility(VITALS, real, real).num_rows_impossible == 0
    assert plausibility(VITALS, real, real).share_outside_training == 0


def test_a_column_that_may_be_negative_is_not_judged_by_its_sign() -> None:
    columns = VITALS.with_column(Column("crp", "continuous", low=-60.0, high=100.0))
    made = vitals().assign(crp=-5.0)
    assert plausibility(columns, vitals(), made).num_rows_impossible == 0


def test_rules_that_patients_break_are_told_apart() -> None:
    real = vitals()
    real.loc[:9, "sbp"] = 20.0
    found = plausibility(VITALS, real, vitals()).constraints[0]
    assert (found.num_synthetic, found.share_real) == (0, 0.05)


def test_detection_finds_what_is_made_up_and_neither_other_patients_nor_balance() -> None:
    columns, train, holdout = halves()
    others = detection(columns, train, holdout, seed=1)
    assert others.low is not None
    assert others.high is not None
    assert others.low < 0.5 < others.high
    # 1 holdout patient in 3 is malignant; here every second one is.
    balanced = pd.concat([rows[:100] for _, rows in holdout.groupby("malignant")])
    found = detection(columns, train, balanced, seed=1)
    assert found.low is not None
    assert found.low < 0.5
    made = gaussian_per_class(columns, train, 284, seed=0)
    found = detection(columns, train, made, seed=1)
    assert found.low is not None
    assert found.low > 0.55
    # Copies stand on both sides, and the forest is misled by the twin that it knows.
    copies = detection(columns, train, bootstrap(train, 284, seed=0), seed=1)
    assert copies.high is not None
    assert copies.high < 0.5


def test_detection_sees_a_table_without_gaps() -> None:
    real, made = vitals(), vitals(seed=1)
    real.loc[::4, "sex"] = None
    found = detection(VITALS, real, made, seed=1)
    assert found.low is not None
    assert found.low > 0.55
    real = vitals()
    same = detection(VITALS, real, made, seed=1)
    assert same.low is not None
    assert same.low < 0.5


def test_too_few_rows_are_not_detected() -> None:
    found = detection(VITALS, vitals(), vitals()[:6], seed=1)
    assert (found.value, found.n) == (None, 12)


def test_fidelity_holds_all_parts_and_class_shares() -> None:
    columns, train, holdout = halves()
    made = gaussian_per_class(columns, train, 200, seed=0, balanced=True)
    found = evaluate_fidelity(columns, train=train, synthetic=made, holdout=holdout, seed=1)
    assert [one.name for one in found.classes] == ["benign", "malignant"]
    assert found.classes[1].synthetic == 0.5
    assert found.mean_margin is not None
    assert found.mean_margin_baseline is not None
    assert len(found.margins) == len(columns)
    assert found.plausibility.num_rows == 200
    unlabelled = evaluate_fidelity(
        replace(columns, label=None), train=train, synthetic=made, seed=1
    )
    assert unlabelled.classes == ()
    assert unlabelled.mean_margin_baseline is None
