"""TSTR and TRTR: what is trained on what, what is told apart from balance, and how sure it is."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from fedward.common.delong import delong_test
from fedward.common.errors import SiteDataError
from fedward.common.intervals import paired_interval
from fedward.synth.evaluation.areas import Area, area, mean_area, mean_difference
from fedward.synth.evaluation.learners import (
    LEARNERS,
    ClassWeight,
    Learner,
    forest,
    learner_named,
)
from fedward.synth.evaluation.mixing import SHARES_REAL, evaluate_mixing, mixture
from fedward.synth.evaluation.tables import Tables
from fedward.synth.evaluation.utility import MEAN, Comparison, Utility, evaluate_utility
from fedward.synth.tables.columns import Column, Columns
from tests.synth.evaluation_cohort import (
    bootstrap,
    constant,
    gaussian_per_class,
    halves,
    shuffled,
)

LOGISTIC = learner_named("logistic-regression")
LINEAR = learner_named("svm-linear")
QUICK = (LOGISTIC, learner_named("svm-rbf"))


def mean_of(utility: Utility) -> Comparison:
    found = utility.mean("internal")
    assert found is not None
    return found


def two_columns(scores: np.ndarray) -> np.ndarray:
    return np.stack([-scores, scores], axis=1)


def drawn_scores(rng: np.random.Generator, label: np.ndarray, num_seeds: int) -> np.ndarray:
    """Return (S, N) scores of models that share their errors, and have some of their seed."""
    common = rng.normal(size=len(label)) + 0.8 * label
    quality = rng.normal(0, 0.15, size=(num_seeds, 1))
    scores: np.ndarray = common + quality * label + 0.5 * rng.normal(size=(num_seeds, len(label)))
    return scores


def test_one_seed_has_the_difference_and_the_interval_of_delong() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(150) < 0.3).astype(np.int64)
    a, b = drawn_scores(rng, label, 2)
    want = delong_test(label, a, b).difference
    got = mean_difference([[area(label, two_columns(a))]], [[area(label, two_columns(b))]])
    assert got.value == pytest.approx(want.value)
    assert got.low == pytest.approx(want.low)
    assert got.high == pytest.approx(want.high)


def test_several_classes_have_the_macro_mean_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 200)
    score_NC = rng.normal(size=(200, 3)) + np.eye(3)[label]
    probability_NC = np.exp(score_NC) / np.exp(score_NC).sum(axis=1, keepdims=True)
    want = roc_auc_score(label, probability_NC, multi_class="ovr", average="macro")
    assert area(label, probability_NC).metric.value == pytest.approx(want)


def test_intervals_of_differences_hold_what_they_promise_and_those_of_seeds_alone_do_not() -> None:
    # Two ways of training of equal quality; patients and seeds are drawn anew 100 times. Of 95 %
    # intervals fewer than 87 would cover in one of a thousand such tests.
    rng = np.random.default_rng(2)
    both = seeds_only = 0
    for _ in range(100):
        label = (np.arange(120) < 40).astype(np.int64)
        first, second = (
            [area(label, two_columns(s)) for s in drawn_scores(rng, label, 5)] for _ in range(2)
        )
        found = mean_difference([[a] for a in first], [[b] for b in second])
        assert found.low is not None
        assert found.high is not None
        both += found.low <= 0 <= found.high
        a, b = ([one.metric.value or 0.0 for one in arm] for arm in (first, second))
        alone = paired_interval(a, b)
        assert alone.low is not None
        assert alone.high is not None
        seeds_only += alone.low <= 0 <= alone.high
    assert both >= 87
    assert seeds_only < 80


def test_a_difference_is_undefined_where_one_seed_is() -> None:
    label = np.array([0, 0, 1, 1])
    there = area(label, two_columns(np.array([0.1, 0.2, 0.3, 0.4])))
    gone = area(np.zeros(4, dtype=np.int64), np.zeros((4, 2)))
    assert there.metric.value == 1
    assert gone.metric.reason == "one class among the test patients"
    assert mean_difference([[there], [there]], [[there], [gone]]).value is None
    assert mean_area([[there], [gone]]).reason == gone.metric.reason


def test_one_test_patient_of_a_class_is_too_few() -> None:
    found: Area = area(np.array([0, 0, 1]), two_columns(np.array([0.1, 0.2, 0.3])))
    assert found.metric.reason == "1 test patients of a class"


def test_rows_drawn_from_the_training_rows_train_as_well_as_they_do() -> None:
    columns, train, holdout = halves()
    tables = Tables(train, tuple(bootstrap(train, 284, s) for s in range(3)), holdout)
    found = evaluate_utility(columns, tables, seed=1, learners=QUICK)
    assert found.num_seeds == 3
    for one in found.comparisons:
        assert one.trtr.value is not None
        assert one.trtr.value > 0.95
        assert one.difference.low is not None
        assert one.difference.high is not None
        assert one.difference.low <= 0 <= one.difference.high
        assert one.difference.low > -0.03


def test_a_synthesiser_of_constant_rows_is_at_chance() -> None:
    columns, train, holdout = halves()
    found = mean_of(
        evaluate_utility(
            columns, Tables(train, (constant(train, 200),), holdout), seed=1, learners=QUICK
        )
    )
    assert found.tstr.low is not None
    assert found.tstr.low <= 0.5
    assert found.difference.high is not None
    assert found.difference.high < -0.3


def test_shuffled_labels_train_to_chance() -> None:
    # One shuffle has a standard deviation of .215 (150 of them): 4 standard errors of 20 are .19.
    columns, train, holdout = halves()
    tables = Tables(train, tuple(shuffled(columns, train, s) for s in range(20)), holdout)
    found = mean_of(evaluate_utility(columns, tables, seed=1, learners=(LOGISTIC,)))
    assert found.tstr.value == pytest.approx(0.5, abs=0.19)
    assert found.tstr.low is not None
    assert found.tstr.low < 0.5
    assert found.trtr.value is not None
    assert found.trtr.value > 0.95


def rare_disease(seed: int, n: int) -> pd.DataFrame:
    """Return rows of which 6 % are positive, with a weak shift of six skewed columns."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.06).astype(np.int64)
    x_NF = np.exp(rng.normal(size=(n, 6)) + 0.3 * label[:, None])
    return pd.DataFrame(x_NF, columns=[f"x{i}" for i in range(6)]).assign(ill=label)


def test_what_balance_alone_gains_is_seen_in_the_control() -> None:
    columns = Columns(
        tuple(Column(f"x{i}", "continuous") for i in range(6)),
        label="ill",
        classes=(0, 1),
        class_names=("well", "ill"),
    )
    train, holdout = rare_disease(1, 700), rare_disease(2, 3000)
    # No synthesis at all: the patients themselves, as many of each class.
    balanced = [
        pd.concat(
            [rows.sample(400, replace=True, random_state=s) for _, rows in train.groupby("ill")]
        )
        for s in range(3)
    ]
    tables = Tables(train, tuple(balanced), holdout)
    found = mean_of(evaluate_utility(columns, tables, seed=1, learners=(LINEAR,)))
    assert found.difference.low is not None
    assert found.difference.low > 0.1
    assert found.difference_balanced.value == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda one: one.name)
def test_every_learner_learns_numbers_and_categories_with_gaps(learner: object) -> None:
    columns, train, holdout = halves()
    for name in ("worst_area", "texture"):
        train.loc[::5, name] = None
    tables = Tables(train, (train,), holdout)
    found = mean_of(evaluate_utility(columns, tables, seed=1, learners=(learner,)))  # type: ignore[arg-type]
    assert found.tstr.value is not None
    assert found.tstr.value > 0.93
    assert found.tstr_by_seed == found.trtr_by_seed


def test_three_classes_are_compared_and_one_that_the_synthetic_rows_lack_is_named() -> None:
    columns, train, holdout = halves()
    names = ("small", "middle", "large")
    columns = Columns(columns.columns[1:], "size", (0, 1, 2), names)
    train, holdout = (
        rows.assign(size=pd.cut(rows["mean_radius"], [0, 12, 15, 99], labels=False))
        for rows in (train, holdout)
    )
    whole = Tables(train, (train,), holdout)
    found = mean_of(evaluate_utility(columns, whole, seed=1, learners=(LOGISTIC,)))
    assert found.tstr.value is not None
    assert found.tstr.value > 0.9
    lacking = Tables(train, (train[train["size"] < 2],), holdout)
    found = mean_of(evaluate_utility(columns, lacking, seed=1, learners=(LOGISTIC,)))
    assert found.tstr.value is None
    assert found.tstr.reason == "no row of class large to train on"
    assert found.trtr.value is not None


def test_a_table_of_one_class_cannot_be_tested_on_but_the_other_can() -> None:
    columns, train, holdout = halves()
    healthy = holdout[holdout["malignant"] == 0]
    tables = Tables(train, (train,), healthy, external=holdout)
    found = evaluate_utility(columns, tables, seed=1, learners=(LOGISTIC,))
    assert mean_of(found).tstr.reason == "one class among the test patients"
    external = found.mean("external")
    assert external is not None
    assert external.tstr.value is not None


def test_utility_is_absent_with_its_reason() -> None:
    columns, train, holdout = halves()
    unlabelled = Columns(columns.columns)
    nothing = evaluate_utility(unlabelled, Tables(train, (train,), holdout), seed=1)
    assert nothing.comparisons == ()
    assert "no label" in str(nothing.reason)
    assert "no real patients to test on" in str(
        evaluate_utility(columns, Tables(train, (train,)), seed=1).reason
    )
    benign = train[train["malignant"] == 0]
    assert (
        evaluate_utility(columns, Tables(benign, (train,), holdout), seed=1).reason
        == "no training patient is of class malignant"
    )


def test_a_label_that_is_no_class_is_refused_without_its_value() -> None:
    columns, train, holdout = halves()
    train.loc[3, "malignant"] = 77
    with pytest.raises(SiteDataError, match="column 'malignant'") as error:
        evaluate_utility(columns, Tables(train, (train,), holdout), seed=1)
    assert "77" not in str(error.value)


def few_trees(num_features: int, class_weight: ClassWeight, seed: int) -> RandomForestClassifier:
    return forest(num_features, class_weight, seed).set_params(n_estimators=10)


def test_the_same_seed_gives_the_same_figures_and_forests_follow_it() -> None:
    columns, train, holdout = halves()
    train, holdout = train[:90], holdout[:90]
    synthetic = gaussian_per_class(columns, train, 60, seed=0)
    tables = Tables(train, (synthetic, synthetic), holdout)
    learners = (Learner("trees", "Trees", few_trees, is_random=True),)
    found = evaluate_utility(columns, tables, seed=1, learners=learners)
    assert found == evaluate_utility(columns, tables, seed=1, learners=learners)
    first, second = mean_of(found).tstr_by_seed
    assert first != second  # the same table, another seed of the learner


def test_mixing_goes_from_the_real_rows_to_the_synthetic_ones() -> None:
    columns, train, holdout = halves()
    made = tuple(shuffled(columns, train, s) for s in range(2))
    found = evaluate_mixing(columns, Tables(train, made, holdout), seed=1, learner=LOGISTIC)
    assert found is not None
    assert [point.share_real for point in found.points] == list(SHARES_REAL)
    values = [point.auroc.value for point in found.points]
    utility = mean_of(
        evaluate_utility(columns, Tables(train, made, holdout), seed=1, learners=(LOGISTIC,))
    )
    # All rows in another order: the solver ends within its tolerance.
    assert values[0] == pytest.approx(utility.trtr.value, abs=1e-3)
    assert values[-1] == pytest.approx(utility.tstr.value, abs=0.02)
    assert max(value or 0.0 for value in values) == pytest.approx(values[0] or 0.0, abs=0.01)


def test_a_mixture_has_the_share_asked_for_and_no_row_twice() -> None:
    real, made = (pd.DataFrame({"row": range(50), "real": flag}) for flag in (True, False))
    found = mixture(real, made, 8, 40, np.random.default_rng(0))
    assert len(found) == 40
    assert int(found["real"].sum()) == 8
    assert not found.duplicated().any()


def test_mixing_is_absent_where_nothing_can_be_trained() -> None:
    columns, train, _ = halves()
    assert evaluate_mixing(columns, Tables(train, (train,)), seed=1) is None
    assert MEAN not in {learner.name for learner in LEARNERS}
