"""What is read off the rows where no schema describes them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.tables.schema import load_schema
from fedward.synth.tables.checks import columns_for
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.detect import detect
from fedward.synth.tables.encoder import Form, learn_encoder
from fedward.synth.tables.schema_text import schema_yaml
from tests.synth.clinic import CLINIC, patients

TRAIN = patients()


def kind_of(values: object) -> Column:
    frame = pd.DataFrame({"x": values})
    return detect(frame)["x"]


def test_a_clinic_is_described_by_its_rows() -> None:
    found = detect(TRAIN, label="septic")
    assert found.names == CLINIC.names
    assert [column.kind for column in found] == [column.kind for column in CLINIC]
    assert found["age"] == Column(
        "age", "continuous", TRAIN["age"].min(), TRAIN["age"].max(), 0, bounds="observed"
    )
    assert found["crp"].decimals == 1
    assert found["lactate"].decimals == 2
    assert found["stage"].categories == ("high", "low", "middle")
    assert found["female"].categories == (0, 1)
    assert found.classes == (0, 1)
    assert not found.is_public


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        ([True, False] * 20, (False, True)),
        ([1, 2, 3, 4] * 10, (1, 2, 3, 4)),
        ([1.0, np.nan, 3.0] * 10, (1, 3)),
        (["b", None, "a"] * 10, ("a", "b")),
        ([5] * 40, (5,)),
        ([0, 1], (0, 1)),
        (pd.Categorical(["b", "a"] * 10, categories=["c", "b", "a"]), ("c", "b", "a")),
        (["1", "0"] * 10, ("0", "1")),
    ],
)
def test_words_booleans_and_few_whole_numbers_are_categories(
    values: object, categories: tuple[object, ...]
) -> None:
    column = kind_of(values)
    assert column.kind == "categorical"
    assert column.categories == categories
    assert [type(one) for one in column.categories] == [type(one) for one in categories]


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        (list(range(11)) * 4, 0),
        ([0.5, 1.0, 1.5] * 10, 1),
        (list(range(8)), 0),
        (np.array([7.4, 7.35] * 20, dtype=np.float32), 2),
        (np.arange(40) / 1e8, 8),
        (np.random.default_rng(0).normal(size=40), None),
        # One average among whole numbers does not make a column of seven decimals.
        ([*np.arange(100) + 50, 75.3333333], 0),
        ([str(one) for one in np.arange(40) / 4], 2),
    ],
)
def test_numbers_are_written_with_the_decimals_of_nearly_all(
    values: object, decimals: int | None
) -> None:
    column = kind_of(values)
    assert column.kind == "continuous"
    assert column.decimals == decimals


def test_what_is_known_better_wins_and_makes_bounds_public() -> None:
    found = detect(
        TRAIN,
        label="septic",
        overrides={
            "age": {"low": 0, "high": 120},
            "female": {"kind": "continuous"},
            "stage": {"categories": ("low", "middle", "high", "unknown")},
            "crp": {"unit": "mg/l", "missing": (5.0,)},
        },
    )
    assert (found["age"].low, found["age"].high, found["age"].bounds) == (0, 120, "public")
    assert found["female"].kind == "continuous"
    assert found["stage"].categories == ("low", "middle", "high", "unknown")
    assert found["stage"].bounds == "public"
    assert found["crp"].unit == "mg/l"
    assert found["crp"].bounds == "observed"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"overrides": {"agee": {}}}, "no column 'agee', did you mean 'age'"),
        ({"overrides": {"age": {"lowest": 0}}}, "unknown lowest"),
        ({"allow": ["mrn"]}, "no column 'mrn'"),
        ({"label": "sepsis"}, "no column 'sepsis'"),
    ],
)
def test_settings_for_what_is_not_there_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        detect(TRAIN, **settings)  # type: ignore[arg-type]


def test_identifiers_are_let_through_where_they_are_allowed() -> None:
    rows = TRAIN.assign(name=[f"p{place % 7}" for place in range(400)])
    with pytest.raises(SiteDataError, match="'name': its name is that of an identifier"):
        detect(rows)
    assert len(detect(rows, allow=["name"])["name"].categories) == 7


def test_a_label_of_many_values_is_probably_none() -> None:
    with pytest.raises(SiteDataError, match="distinct labels"):
        detect(TRAIN, label="age")


def test_empty_tables_and_columns_are_refused() -> None:
    with pytest.raises(NoPatientsError):
        detect(TRAIN[:0])
    with pytest.raises(SiteDataError, match="'crp': no row has a value"):
        detect(TRAIN.assign(crp=np.nan))
    with pytest.raises(SiteDataError, match="'crp': no row has a value"):
        detect(TRAIN.assign(crp=-1.0), overrides={"crp": {"missing": (-1.0,)}})


def test_a_detected_table_is_encoded_and_decoded_to_itself() -> None:
    columns, table = columns_for(None, TRAIN.drop(columns="septic"), TRAIN["septic"])
    encoder = learn_encoder(columns, Form(), table)
    pd.testing.assert_frame_equal(encoder.decode(encoder.encode(table)), table[list(columns.names)])


def test_what_was_read_off_is_written_as_a_schema_that_is_read_back(tmp_path: Path) -> None:
    rows = TRAIN.assign(ward="a", smoker=TRAIN["age"] > 50)
    found = detect(rows, label="septic", overrides={"crp": {"missing": (999,)}})
    path = tmp_path / "clinic.yaml"
    path.write_text(schema_yaml(found, name="clinic"), encoding="utf-8")
    read = Columns.of_schema(load_schema(str(path)))
    assert read.names == found.names
    assert read.is_public
    for column in found:
        again = read[column.name]
        assert (again.kind, again.low, again.high) == (column.kind, column.low, column.high)
        assert (again.decimals, again.missing) == (column.decimals, column.missing)
    assert read["ward"].categories == ("a", "other")  # a schema needs two
    assert read["smoker"].categories == (0, 1)
    # The schema reads what it was made from.
    pd.testing.assert_frame_equal(columns_for(read, rows)[1], columns_for(found, rows)[1])


def test_constraints_and_thresholds_are_written_too(tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    path.write_text(schema_yaml(CLINIC), encoding="utf-8")
    assert Columns.of_schema(load_schema(str(path))).constraints == CLINIC.constraints
    heart = Columns.of_schema(load_schema("heart-disease"))
    path.write_text(schema_yaml(heart), encoding="utf-8")
    assert Columns.of_schema(load_schema(str(path))) == heart


def test_what_a_schema_cannot_say_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a label"):
        schema_yaml(Columns(CLINIC.columns))
    with pytest.raises(ConfigError, match="write them so first"):
        schema_yaml(Columns(CLINIC.columns, "septic", ("no", "yes")))
    with pytest.raises(ConfigError, match="needs both its bounds"):
        schema_yaml(Columns((Column("x", "continuous"),), "septic", (0, 1)))
