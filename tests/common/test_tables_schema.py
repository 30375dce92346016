from pathlib import Path

import pytest

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.tables.schema import load_schema, shipped_schemas

GOOD = """\
version: 1
name: ward
label:
  column: died
fields:
  - {name: age, kind: continuous, unit: years, range: [0, 120]}
  - {name: sex, kind: categorical, categories: [0, 1]}
exclude: [site]
"""


def write(folder: Path, text: str) -> str:
    (folder / "ward.yaml").write_text(text, encoding="utf-8")
    return "ward.yaml"


@pytest.mark.parametrize("name", shipped_schemas())
def test_a_shipped_schema_can_be_read_and_is_called_as_its_file(name: str) -> None:
    assert load_schema(name).name == name


def test_an_unknown_schema_is_answered_with_the_nearest_and_all_names() -> None:
    with pytest.raises(ConfigError) as caught:
        load_schema("hart-disease")
    assert "did you mean 'heart-disease'" in str(caught.value)
    assert all(name in str(caught.value) for name in shipped_schemas())


def test_a_schema_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, GOOD), tmp_path)
    assert [field.name for field in schema.fields] == ["age", "sex"]
    assert schema.num_classes == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("unit: years", "units: years", 6, "fields[0].units: unknown key, did you mean 'unit'?"),
        ("kind: continuous", "kind: continous", 6, "fields[0].kind: given 'continous', expected"),
        (", range: [0, 120]", "", 6, "fields[0].range: a continuous field needs one"),
        ("[0, 120]", "[120, 0]", 6, "fields[0].range: expected [lowest, highest]"),
        ("[0, 120]", "[0, .inf]", 6, "fields[0].range"),
        ("[0, 1]", "[0]", 7, "fields[1].categories: a categorical field needs at least two"),
        ("[0, 1]", "[0, 0]", 7, "fields[1].categories: one is given twice"),
        ("[0, 1]", "[0, 1], missing: [1]", 7, "fields[1].missing: a category cannot stand for"),
        ("name: sex", "name: age", 5, "fields: given twice: age"),
        ("name: sex", "name: died", 5, "fields: died cannot be a feature as well as label"),
        ("name: sex", "name: site", 5, "fields: site cannot be a feature"),
        ("  column: died", "  colum: died", 4, "label.colum: unknown key, did you mean 'column'"),
        ("column: died", "column: died\n  classes: [a]", 5, "label.classes: "),
        (
            "column: died",
            "column: died\n  classes: [a, b, c]\n  positive_above: 0",
            6,
            "label.positive_above: it makes two classes",
        ),
        ("name: ward\n", "", 1, "name: missing"),
        ("version: 1", "version: 2", 1, "version: given 2, expected 1"),
        ("exclude: [site]", "min_cohort: 0", 8, "min_cohort: given 0, expected"),
    ],
)
def test_what_is_wrong_in_a_schema_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_schema(write(tmp_path, GOOD.replace(old, new)), tmp_path)
    assert f"ward.yaml:{line}: {says}" in str(caught.value)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("column: agee, below: 5", "no field 'agee', did you mean 'age'?"),
        ("column: site, equals: 1", "no field 'site'"),
        ("column: sex, equals: 7", "equals is none of the categories"),
        ("column: sex, below: 1", "use equals for a categorical field"),
        ("column: age, equals: 5", "use equals for a categorical field"),
        ("column: age, below: 5, at_least: 9", "expected less than below"),
        ("column: age, equals: 5, at_least: 1", "give either equals"),
        ("column: age", "give either equals"),
    ],
)
def test_a_subgroup_that_cannot_be_told_is_refused(tmp_path: Path, group: str, says: str) -> None:
    text = GOOD + f"subgroups:\n  - {{name: some, {group}}}\n"
    with pytest.raises(ConfigError, match=r"ward\.yaml:(9|10): subgroups") as caught:
        load_schema(write(tmp_path, text), tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "seven"])
def test_a_file_that_is_no_schema_says_what_was_expected(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"ward\.yaml:1: expected a schema: version, name"):
        load_schema(write(tmp_path, text), tmp_path)


def test_a_schema_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ward.yaml").write_bytes(GOOD.replace("ward", "St\xe4tion").encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_schema("ward.yaml", tmp_path)


def test_features_are_chosen_by_name_in_the_order_of_the_schema() -> None:
    chosen = load_schema("heart-disease").select(("chol", "age"))
    assert [field.name for field in chosen] == ["age", "chol"]


def test_an_unknown_feature_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no feature 'choll', did you mean 'chol'\?"):
        load_schema("heart-disease").select(("choll",))


@pytest.mark.parametrize("leak", ["last_hour", "label_onset_hour", "first_hour"])
def test_a_column_that_tells_the_end_of_the_story_cannot_be_a_feature(leak: str) -> None:
    schema = load_schema("sepsis")
    assert leak not in [field.name for field in schema.fields]
    with pytest.raises(ConfigError, match="the schema excludes it"):
        schema.select((leak,))


def test_a_cohort_that_is_too_small_is_refused_without_saying_how_small() -> None:
    schema = load_schema("heart-disease").model_copy(update={"min_cohort": 60})
    schema.check_cohort(60, place="site va")
    with pytest.raises(SiteDataError, match="minimum cohort of 60") as caught:
        schema.check_cohort(37, place="site va")
    assert "37" not in str(caught.value)
    with pytest.raises(NoPatientsError, match="site va: no patient is left"):
        schema.check_cohort(0, place="site va")
