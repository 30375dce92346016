"""What a synthesiser refuses to learn; each refusal says which column, and no patient's value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.synth.tables.checks import (
    DuplicateRowsWarning,
    check_table,
    class_codes,
    columns_for,
    widened,
)
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.copula import GaussianCopula
from fedward.synth.tables.reading import codes_among
from tests.synth.clinic import CLINIC, Uniform, patients

TRAIN = patients()


def refused(table: pd.DataFrame, columns: Columns | None = CLINIC, y: object = None) -> str:
    """Return what fit says of a table that it refuses."""
    with pytest.raises(SiteDataError) as caught:
        Uniform(columns).fit(table, y)
    return str(caught.value)


def test_a_sound_table_is_learned() -> None:
    assert Uniform(CLINIC).fit(TRAIN).class_sizes_ == (300, 100)
    assert Uniform(CLINIC).fit(TRAIN.drop(columns="septic"), TRAIN["septic"]).class_sizes_ == (
        300,
        100,
    )


def test_one_class_is_no_label() -> None:
    told = refused(TRAIN[TRAIN["septic"] == 1])
    assert "all rows have one class" in told
    assert "leave the label out" in told


def test_eight_records_in_a_class_are_too_few_and_their_number_is_not_told() -> None:
    rows = pd.concat([TRAIN[TRAIN["septic"] == 0], TRAIN[TRAIN["septic"] == 1][:8]])
    told = refused(rows)
    assert "class 'sepsis' has fewer rows than the minimum of 20 (min_class_size)" in told
    assert "8" not in told
    assert Uniform(CLINIC, min_class_size=8).fit(rows).class_sizes_ == (300, 8)


def test_a_constant_column_is_learned_and_stays_constant() -> None:
    # Its mean is not exactly 0.1, nor its computed deviation 0.
    rows = GaussianCopula(CLINIC).fit(TRAIN.assign(lactate=0.1, stage="low")).sample(50, seed=1)
    assert set(rows["lactate"]) == {0.1}
    assert set(rows["stage"]) == {"low"}


def test_a_column_without_any_value_is_refused_by_name() -> None:
    assert "'crp': no row has a value" in refused(TRAIN.assign(crp=np.nan))
    assert "'crp': no row has a value" in refused(TRAIN.assign(crp=np.nan), None)
    assert "'stage': no row has a value" in refused(TRAIN.assign(stage=None))


def test_numbers_with_text_among_them_are_refused_with_their_count() -> None:
    mixed = TRAIN["crp"].astype(object)
    mixed[[3, 5]] = "elevated"
    for columns in (CLINIC, None):
        told = refused(TRAIN.assign(crp=mixed), columns)
        assert "'crp': mixes numbers and text: 2 of" in told
        assert "elevated" not in told
    written = TRAIN.assign(crp=TRAIN["crp"].astype(str).replace("nan", None))
    pd.testing.assert_frame_equal(columns_for(CLINIC, written)[1], columns_for(CLINIC, TRAIN)[1])


@pytest.mark.parametrize(
    "name", ["MRN", "patient_id", "PatientID", "last name", "SSN", "zip", "date_of_birth"]
)
def test_a_column_named_like_an_identifier_is_refused_unless_it_is_described(name: str) -> None:
    rows = TRAIN.assign(**{name: 5})
    assert "name is that of an identifier" in refused(rows, None)
    described = Columns((*CLINIC.columns, Column(name, "categorical", categories=(5,))))
    assert set(Uniform(described).fit(rows).sample(3, seed=1)[name]) == {5}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([f"case {place}" for place in range(400)], "a text of its own"),
        (range(7, 407), "number the rows"),
        (np.arange(400.0)[::-1] + 0, "number the rows"),
        (np.random.default_rng(0).permutation(10**6)[:400] + 10**7, "long whole number"),
        (pd.date_range("2020-01-01", periods=400, freq="D"), "dates"),
    ],
)
def test_a_column_that_tells_every_row_apart_is_refused(values: Any, told: str) -> None:
    assert told in refused(TRAIN.assign(reference=values), None)


def test_clinical_columns_are_no_identifiers() -> None:
    rng = np.random.default_rng(0)
    rows = TRAIN.assign(
        platelets=rng.permutation(900)[:400] + 20,
        uric_acid=rng.normal(5, 1, 400),
        birth_weight=rng.integers(500, 5000, 400),
        ward=rng.choice(["a", "b"], 400),
    )
    assert len(Uniform().fit(rows).columns_) == 12


def test_no_rows_are_told_apart_from_bad_rows() -> None:
    for columns in (CLINIC, None):
        with pytest.raises(NoPatientsError, match="no rows"):
            Uniform(columns).fit(TRAIN[:0])


def test_repeated_rows_are_learned_with_a_warning() -> None:
    twice = pd.concat([TRAIN, TRAIN[:3]])
    with pytest.warns(DuplicateRowsWarning, match="3 of 403 rows repeat"):
        Uniform(CLINIC).fit(twice)
    # In a table of few columns patients agree by chance.
    Uniform(Columns(CLINIC.columns[-2:])).fit(twice)


def test_missing_labels_are_refused() -> None:
    labels = TRAIN["septic"].astype(float)
    labels[[1, 2]] = np.nan
    features = TRAIN.drop(columns="septic")
    for columns in (CLINIC, None):
        assert "2 of 400 labels are missing" in refused(features, columns, labels)


def test_infinite_values_are_refused() -> None:
    for columns in (CLINIC, None):
        told = refused(TRAIN.assign(crp=TRAIN["crp"].where(TRAIN.index != 4, np.inf)), columns)
        assert "'crp'" in told
        assert "infinite" in told


def test_values_outside_public_bounds_are_refused_and_not_shown() -> None:
    told = refused(TRAIN.assign(age=TRAIN["age"].where(TRAIN.index != 4, 777)))
    assert "'age': 1 of 400 values are outside 0 to 120 years" in told
    assert "777" not in told


def test_observed_bounds_widen_to_the_rows_that_are_learned() -> None:
    seen = CLINIC.with_column(Column("age", "continuous", 50, 60, bounds="observed"))
    age = widened(seen, TRAIN)["age"]
    assert (age.low, age.high) == (TRAIN["age"].min(), TRAIN["age"].max())
    assert widened(CLINIC, TRAIN) == CLINIC


def test_unknown_categories_and_classes_are_refused() -> None:
    told = refused(TRAIN.assign(stage=TRAIN["stage"].where(TRAIN.index != 4, "terminal")))
    assert "'stage': 1 of 400 cells hold none of its 3 categories" in told
    assert "terminal" not in told
    assert "'septic': 1 of 400 cells hold none" in refused(
        TRAIN.assign(septic=TRAIN["septic"].where(TRAIN.index != 4, 2))
    )


def test_a_label_that_is_also_a_column_is_refused() -> None:
    assert "'septic': is the label and a column" in refused(TRAIN, CLINIC, TRAIN["septic"])
    with pytest.raises(ConfigError, match="'septic': is the label and a column"):
        Columns((*CLINIC.columns, Column("septic", "continuous")), "septic", (0, 1))


def test_columns_of_the_same_name_are_refused() -> None:
    assert "given twice: crp" in refused(pd.concat([TRAIN, TRAIN[["crp"]]], axis=1))


def test_columns_that_are_not_there_are_named_with_what_may_be_meant() -> None:
    told = refused(TRAIN.rename(columns={"lactate": "Lactat"}))
    assert "no column 'lactate'" in told
    assert "did you mean 'Lactat'" in told


def test_columns_that_are_not_described_are_left_out() -> None:
    _, table = columns_for(CLINIC, TRAIN.assign(ward="a"))
    assert list(table) == [*CLINIC.names, "septic"]


def test_labels_beside_the_rows_are_named_by_the_description_the_series_or_not_at_all() -> None:
    features, labels = TRAIN.drop(columns="septic"), TRAIN["septic"]
    for columns, y, name in (
        (CLINIC, labels.to_numpy(), "septic"),
        (CLINIC, labels.rename("other"), "septic"),
        (None, labels, "septic"),
        (None, labels.to_list(), "label"),
    ):
        found, table = columns_for(columns, features, y)
        assert found.label == name
        assert (table[name] == labels).all()
    shuffled = features.set_axis(range(400, 0, -1))
    # Rows and labels go together by their place, not by their index.
    assert (columns_for(CLINIC, shuffled, labels)[1]["septic"] == labels).all()


@pytest.mark.parametrize(
    ("given", "table", "y", "told"),
    [
        (CLINIC, TRAIN.to_numpy(), None, "pandas.DataFrame"),
        (CLINIC, TRAIN.rename(columns={"age": 7}), None, "not text"),
        (Columns(CLINIC.columns), TRAIN, TRAIN["septic"], "has no label"),
    ],
)
def test_calls_that_do_not_fit_together_are_refused(
    given: Columns, table: pd.DataFrame, y: object, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        columns_for(given, table, y)


def test_as_many_labels_as_rows_are_needed() -> None:
    assert "399 labels for 400 rows" in refused(
        TRAIN.drop(columns="septic"), CLINIC, TRAIN["septic"][1:]
    )


def test_without_a_label_all_rows_together_must_be_enough() -> None:
    assert "fewer rows than the minimum of 20" in refused(TRAIN[:19], Columns(CLINIC.columns))


def test_a_table_of_a_label_alone_teaches_nothing() -> None:
    assert "nothing can be learned" in refused(TRAIN, Columns((), "septic", (0, 1), ("a", "b")))


def test_class_codes_follow_the_order_of_the_classes() -> None:
    columns = Columns(CLINIC.columns, "septic", (1, 0), ("sepsis", "none"))
    assert (class_codes(columns, TRAIN) == 1 - TRAIN["septic"]).all()
    assert (class_codes(Columns(CLINIC.columns), TRAIN) == 0).all()
    with pytest.raises(SiteDataError, match="1 labels are missing"):
        class_codes(columns, TRAIN.assign(septic=TRAIN["septic"].where(TRAIN.index != 4)))


@pytest.mark.parametrize("cells", [[1, 0], [1.0, 0.0], [True, False], ["1", "0"], ["1 ", " 0"]])
def test_a_category_is_known_however_it_is_written(cells: list[object]) -> None:
    for categories in ((0, 1), (False, True), ("0", "1"), (0.0, 1.0)):
        assert list(codes_among(categories, pd.Series(cells), "x")) == [1, 0]


def heart() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(30, 80, 60),
            "sex": rng.integers(0, 2, 60),
            "chol": np.where(np.arange(60) < 20, 0, rng.integers(150, 300, 60)),
            "num": rng.integers(0, 5, 60),
        }
    )


HEART = TableSchema.model_validate(
    {
        "version": 1,
        "name": "heart",
        "label": {"column": "num", "positive_above": 0, "classes": ("healthy", "ill")},
        "fields": [
            {"name": "age", "kind": "continuous", "range": (0, 120)},
            {"name": "sex", "kind": "categorical", "categories": (0, 1)},
            {"name": "chol", "kind": "continuous", "range": (50, 700), "missing": (0,)},
        ],
        "drop": [{"column": "age", "at_most": 35}],
    }
)


def test_a_schema_cuts_its_label_drops_its_rows_and_reads_its_codes_for_missing() -> None:
    rows = heart()
    old = rows[rows["age"] > 35].reset_index(drop=True)
    columns, table = columns_for(HEART, rows)
    assert (table["num"] == (old["num"] > 0)).all()
    assert (table["chol"].isna() == (old["chol"] == 0)).all()
    assert columns.positive_above is None
    assert columns.class_names == ("healthy", "ill")
    # What was read is read again as it stands.
    pd.testing.assert_frame_equal(columns_for(columns, table)[1], table)
    pd.testing.assert_frame_equal(columns_for(Columns.of_schema(HEART), table)[1], table)
    apart = columns_for(HEART, rows.drop(columns="num"), rows["num"])[1]
    pd.testing.assert_frame_equal(apart, table)


def test_a_schema_that_drops_by_a_column_needs_it() -> None:
    schema = load_schema("sepsis")
    with pytest.raises(SiteDataError, match="drops rows by column 'label_onset_hour'"):
        columns_for(schema, pd.DataFrame({"HR": [1.0]}))


def test_synthetic_rows_of_a_schema_keep_its_ranges_and_codes() -> None:
    rows = Uniform(HEART, min_class_size=5).fit(heart()).sample(300, seed=1)
    assert rows["chol"].dropna().between(150, 300).all()
    assert rows["chol"].isna().any()


def test_checks_of_a_table_are_those_of_fit() -> None:
    check_table(CLINIC, TRAIN, min_class_size=100)
    with pytest.raises(SiteDataError, match="minimum of 101"):
        check_table(CLINIC, TRAIN, min_class_size=101)


def test_a_description_survives_json() -> None:
    assert Columns.from_dict(CLINIC.to_dict()) == CLINIC
    of_schema = Columns.of_schema(HEART)
    assert Columns.from_dict(of_schema.to_dict()) == of_schema
    assert of_schema["chol"].missing == (0,)
    assert of_schema.positive_above == 0
    with pytest.raises(ConfigError, match="not a description"):
        Columns.from_dict({"columns": [{"name": "age"}]})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Column("x", "ordinal"), "kind"),  # type: ignore[arg-type]
        (lambda: Column("x", "categorical"), "expected distinct"),
        (lambda: Column("x", "categorical", categories=(1, 1.0)), "expected distinct"),
        (lambda: Column("x", "continuous", 5, 4), "above its highest"),
        (lambda: Columns((*CLINIC.columns, CLINIC["age"])), "given twice: age"),
        (lambda: Columns(CLINIC.columns[-2:], constraints=CLINIC.constraints), "no numbers"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    wrong: Callable[[], object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        wrong()


def test_classes_without_names_are_called_as_they_are() -> None:
    assert Columns(CLINIC.columns, "septic", (0, 1)).class_names == ("0", "1")
