"""Exactly what was asked for, the same with the same seed, and an end to every request."""

import numpy as np
import pandas as pd
import psutil
import pytest
from scipy.stats import binomtest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fedward.common.errors import ConfigError, ShortfallError
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.rows import Candidates
from fedward.synth.tables.sampling import Limits, ShortfallWarning
from tests.synth.clinic import CLINIC, ClassTold, Copier, Uniform, patients

TRAIN = patients()


def joined(model: Synthesiser, chunk_rows: int, n: int = 300) -> pd.DataFrame:
    chunks = list(model.sampling(n, class_counts="balanced", seed=4).chunks(chunk_rows=chunk_rows))
    assert all(len(chunk) == chunk_rows for chunk in chunks[:-1])
    return pd.concat(chunks, ignore_index=True)


@pytest.mark.parametrize("n", [0, 1, 7, 300, 5000])
def test_a_sample_has_exactly_the_rows_that_were_asked_for(n: int) -> None:
    rows = Uniform(CLINIC).fit(TRAIN).sample(n, seed=1)
    assert len(rows) == n
    assert list(rows) == [*CLINIC.names, "septic"]


def test_without_a_number_there_are_as_many_rows_of_each_class_as_were_learned() -> None:
    rows = Uniform(CLINIC).fit(TRAIN).sample(seed=1)
    assert rows["septic"].value_counts().to_dict() == {0: 300, 1: 100}


def test_shares_of_classes_can_be_equal_or_given_by_number() -> None:
    model = Uniform(CLINIC).fit(TRAIN)
    assert model.sample(101, class_counts="balanced", seed=1)["septic"].sum() == 50
    given = model.sample(class_counts={1: 30, 0: 2}, seed=1)["septic"]
    assert given.value_counts().to_dict() == {1: 30, 0: 2}
    assert set(model.sample(30, class_counts={1: 30}, seed=1)["septic"]) == {1}


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_the_same_seed_gives_the_same_rows_whatever_the_size_of_the_parts(chunk_rows: int) -> None:
    model = Uniform(CLINIC, passed=0.3).fit(TRAIN)
    whole = model.sample(300, class_counts="balanced", seed=4)
    pd.testing.assert_frame_equal(joined(model, chunk_rows), whole)


def test_parts_that_cross_blocks_and_fill_up_join_to_the_same_rows() -> None:
    model = Uniform(CLINIC, passed=0.001, on_shortfall="fill", max_candidates=40_000).fit(TRAIN)
    whole = model.sample(5000, class_counts="balanced", seed=4)
    for chunk_rows in (999, 5000):
        pd.testing.assert_frame_equal(joined(model, chunk_rows, n=5000), whole)


def test_another_seed_and_no_seed_give_other_rows() -> None:
    model = Uniform(CLINIC).fit(TRAIN)
    first = model.sample(50, seed=4)
    assert not first.equals(model.sample(50, seed=5))
    assert not model.sample(50).equals(model.sample(50))


def test_every_row_has_the_label_of_the_class_that_it_was_drawn_for() -> None:
    # A permutation that is off by one, or inverted, puts a class into rows of another.
    rows = ClassTold(CLINIC).fit(TRAIN).sample(999, class_counts={1: 700, 0: 299}, seed=2)
    assert (rows["age"] - 10 == rows["septic"]).all()
    # Mixed, not one class after the other: runs of a random order are short.
    changes = int((np.diff(rows["septic"]) != 0).sum())
    assert binomtest(changes, 998, 2 * 0.7 * 0.3).pvalue > 1e-6


def test_three_classes_with_names_come_back_by_name() -> None:
    named = TRAIN.assign(septic=np.array(["mild", "sepsis", "none"])[np.arange(400) % 3])
    columns = Columns(CLINIC.columns, "septic", ("none", "mild", "sepsis"), ("n", "m", "s"))
    rows = ClassTold(columns).fit(named).sample(class_counts={"sepsis": 9, "none": 5}, seed=1)
    assert rows["septic"].value_counts().to_dict() == {"sepsis": 9, "none": 5}
    assert (rows["age"] - 10 == rows["septic"].map({"none": 0, "mild": 1, "sepsis": 2})).all()


def test_a_table_without_a_label_is_learned_and_sampled_as_one() -> None:
    columns = Columns(CLINIC.columns)
    model = Uniform(columns).fit(TRAIN)
    assert list(model.sample(5, seed=1)) == list(CLINIC.names)
    assert list(model.sampling(5, seed=1).acceptance) == ["rows"]
    with pytest.raises(ConfigError, match="has no label"):
        model.sample(class_counts={0: 5})


def test_constraints_hold_and_without_them_they_would_not() -> None:
    rows = Uniform(CLINIC).fit(TRAIN).sample(500, seed=1)
    assert (rows["systolic"] >= rows["diastolic"]).all()
    free = Uniform(Columns(CLINIC.columns, "septic", (0, 1), ("a", "b"))).fit(TRAIN)
    assert (free.sample(500, seed=1)["systolic"] < free.sample(500, seed=1)["diastolic"]).any()


def test_numbers_stay_in_bounds_and_decimals_and_unbounded_they_would_not() -> None:
    columns = CLINIC.with_column(Column("age", "continuous", 40, 60, decimals=0))
    train = TRAIN[TRAIN["age"].between(40, 60)]

    class Noisy(Uniform):
        def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
            drawn = super()._draw(code, size, rng)
            drawn.rows.values_NF[:] += rng.normal(size=drawn.rows.values_NF.shape)
            return drawn

    rows = Noisy(columns).fit(train).sample(2000, seed=1)
    assert rows["age"].between(40, 60).all()
    assert (rows["age"] == rows["age"].round()).all()
    assert (rows["crp"].dropna() == rows["crp"].dropna().round(1)).all()
    free = Noisy(columns, bounded=False).fit(train).sample(2000, seed=1)
    assert not free["age"].between(40, 60).all()
    assert not (free["age"] == free["age"].round()).all()


def test_conditions_are_met_by_every_row() -> None:
    model = Uniform(CLINIC).fit(TRAIN)
    wanted = {"age": (60, 80), "stage": "high", "female": "1"}
    rows = model.sample(200, conditions=wanted, seed=1)
    assert len(rows) == 200
    assert rows["age"].between(60, 80).all()
    assert set(rows["stage"]) == {"high"}
    assert set(rows["female"]) == {1}
    assert rows["systolic"].nunique() > 20
    assert model.sample(20, conditions={"female": (1, 2)}, seed=1)["female"].eq(1).all()
    assert model.sample(20, conditions={"age": 61}, seed=1)["age"].eq(61).all()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"agee": 60}, "no column 'agee', did you mean 'age'"),
        ({"septic": 1}, "class_counts"),
        ({"stage": "hihg"}, "no category"),
        ({"stage": (1, 2)}, "no order"),
        ({"female": (5, 6)}, "no category lies"),
        ({"age": (130, 200)}, "between 0 and 120"),
        ({"age": (80, 60)}, "lowest, highest"),
        ({"age": (1, 2, 3)}, "lowest, highest"),
        ({"age": "old"}, "expected a number"),
        ({"age": float("nan")}, "expected a number"),
    ],
)
def test_a_condition_that_no_row_can_meet_is_refused_at_once(
    wanted: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Uniform(CLINIC).fit(TRAIN).sample(5, conditions=wanted)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"n": -1}, "whole number"),
        ({"n": 2.5}, "whole number"),
        ({"n": True}, "whole number"),
        ({"class_counts": "equal"}, "original, balanced"),
        ({"class_counts": {2: 5}}, "no class 2"),
        ({"class_counts": {1: -5}}, "number of rows"),
        ({"class_counts": {1: 5}, "n": 6}, "add up to 5"),
        ({"n": 5, "seed": -1}, "seed"),
    ],
)
def test_a_request_that_means_nothing_is_refused(asked: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Uniform(CLINIC).fit(TRAIN).sample(**asked)  # type: ignore[arg-type]


def test_a_filter_that_keeps_nothing_ends_with_an_error_that_says_where_rows_were_lost() -> None:
    model = Uniform(CLINIC, passed=0.0).fit(TRAIN)
    # Given up once 75 rows of 262,144 candidates are out of reach: long before these are drawn.
    with pytest.raises(ShortfallError, match=r"class 0: 75 of 75 .*filter kept 0 of \d\d,\d{3},"):
        model.sample(100, seed=1)


def test_under_warn_there_are_as_many_rows_as_max_candidates_give() -> None:
    model = Uniform(CLINIC, passed=0.002, max_candidates=40_960, on_shortfall="warn").fit(TRAIN)
    with pytest.warns(ShortfallWarning, match="rows are missing"):
        sampling = model.sampling(class_counts={1: 500}, seed=1)
    rows = pd.concat(sampling.chunks(chunk_rows=7))
    # 1 of 500 candidates by the filter (10 of each block of 4096), nearly all by the constraint.
    assert 0 < len(rows) <= 100
    assert sampling.counts == {1: len(rows)}
    assert sampling.acceptance[1].candidates == 40_960


def test_under_fill_rows_are_exact_and_keep_all_but_the_filter() -> None:
    model = Uniform(CLINIC, passed=0.0, on_shortfall="fill").fit(TRAIN)
    sampling = model.sampling(100, conditions={"age": (50, 70)}, seed=1)
    rows = pd.concat(sampling.chunks())
    assert len(rows) == 100
    assert rows["age"].between(50, 70).all()
    assert (rows["systolic"] >= rows["diastolic"]).all()
    assert {name: one.filled for name, one in sampling.acceptance.items()} == {0: 75, 1: 25}


def test_fill_cannot_fill_what_constraints_refuse() -> None:
    impossible = Columns.from_dict(CLINIC.to_dict() | {"constraints": ["systolic > 400"]})
    model = Uniform(impossible, on_shortfall="fill").fit(TRAIN)
    with pytest.raises(ShortfallError, match="constraints kept 0"):
        model.sample(10, seed=1)


def test_a_request_near_the_limit_is_decided_before_the_first_row_is_given() -> None:
    # 3.8 % of 40,960 candidates are about 1,550: neither surely enough nor surely too few.
    model = Uniform(CLINIC, passed=0.04, max_candidates=40_960, on_shortfall="warn").fit(TRAIN)
    for wanted in (1200, 1500, 1600):
        try:
            sampling = model.sampling(class_counts={1: wanted}, seed=3)
        except ShortfallWarning:  # warnings are errors here
            continue
        assert sum(map(len, sampling.chunks(chunk_rows=100))) == wanted


def test_max_candidates_below_one_block_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4096"):
        Uniform(CLINIC, max_candidates=100).fit(TRAIN).sample(5)


def test_without_a_limit_a_large_request_may_draw_a_hundred_candidates_per_row() -> None:
    assert Limits().most_candidates(10) == 262_144
    assert Limits().most_candidates(50_000) == 5_000_000
    assert Limits(max_candidates=7).most_candidates(50_000) == 7


def test_the_report_of_acceptance_adds_up() -> None:
    model = Uniform(CLINIC, passed=0.5).fit(TRAIN)
    sampling = model.sampling(6000, conditions={"female": 1}, seed=1)
    rows = pd.concat(sampling.chunks())
    for code, one in sampling.acceptance.items():
        assert one.returned == one.requested == int((rows["septic"] == code).sum())
        assert one.candidates >= one.by_filter >= one.by_constraints >= one.by_conditions
        assert one.by_conditions >= one.returned
        assert one.candidates % 4096 == 0
        assert one.filled == 0
        assert one.rate == one.by_conditions / one.candidates
        # Half of the candidates, all but a few of them, half of them (six standard errors).
        assert one.by_filter / one.candidates == pytest.approx(0.5, abs=0.02)
        error = 6 * 0.5 / np.sqrt(one.by_constraints)
        assert one.by_conditions / one.by_constraints == pytest.approx(0.5, abs=error)


def test_cells_are_missing_as_often_as_in_the_training_rows() -> None:
    rows = Copier(CLINIC).fit(TRAIN).sample(3000, seed=1)
    for name in CLINIC.names:
        # Two columns vary; each is wrong with probability 1e-4.
        share = float(TRAIN[name].isna().mean())
        assert binomtest(int(rows[name].isna().sum()), 3000, share).pvalue > 1e-4


def test_a_synthesiser_is_an_estimator_of_scikit_learn() -> None:
    model = Uniform(CLINIC, passed=0.5).fit(TRAIN)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError, match="call fit"):
        copy.sample(5)
    assert copy.set_params(passed=0.25, seed=3).get_params()["passed"] == 0.25
    assert "TRAIN" not in repr(model)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"min_class_size": 1}, "min_class_size"),
        ({"on_shortfall": "ignore"}, "raise, warn, fill"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_by_fit(
    parameters: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Uniform(CLINIC, **parameters).fit(TRAIN)  # type: ignore[arg-type]


def test_progress_is_told_until_all_rows_are_done() -> None:
    told: list[tuple[int, int]] = []
    Uniform(CLINIC).fit(TRAIN).sample(10, seed=1, progress=lambda done, of: told.append((done, of)))
    assert told == [(10, 10)]
    list(
        Uniform(CLINIC)
        .fit(TRAIN)
        .sampling(10, seed=1)
        .chunks(chunk_rows=4, progress=lambda done, of: told.append((done, of)))
    )
    assert told[1:] == [(4, 10), (8, 10), (10, 10)]


def test_chunks_without_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="chunk_rows"):
        list(Uniform(CLINIC).fit(TRAIN).sampling(10).chunks(chunk_rows=0))


@pytest.mark.slow
def test_a_million_rows_of_27_columns_take_no_more_memory_than_a_few_chunks() -> None:
    names = [f"lab_{place}" for place in range(27)]
    rng = np.random.default_rng(0)
    train = pd.DataFrame(rng.normal(50, 10, (200, 27)).round(1), columns=names)
    columns = Columns(tuple(Column(name, "continuous", 0, 100, decimals=1) for name in names))
    model = Uniform(columns, passed=0.5).fit(train)
    process, done, peak = psutil.Process(), 0, 0
    sampling = model.sampling(1_000_000, seed=1)
    chunks = sampling.chunks(chunk_rows=16_384)
    done += len(next(chunks))
    before = process.memory_info().rss
    for chunk in chunks:
        done += len(chunk)
        peak = max(peak, process.memory_info().rss - before)
    assert done == 1_000_000
    # All rows are 216 MB; a chunk is 3.5 MB, and the allocator keeps some of what is freed.
    assert peak < 40e6
