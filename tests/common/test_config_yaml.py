import math

import pytest

from fedward.common.config.yaml_lines import dump_yaml, parse_yaml
from fedward.common.errors import ConfigError


# The expected values are those of YAML 1.2.2, section 10.3.2 (core schema).
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0xFF", 255),
        ("-7", -7),
        ("1e-3", 0.001),
        ("1.", 1.0),
        ("+.5", 0.5),
        ("-.inf", -math.inf),
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("FALSE", False),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("'010'", "010"),
        ("!!str 010", "010"),
        ("[1, NO]", [1, "NO"]),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}", "run.yaml").value["key"]
    assert (type(read), read) == (type(value), value)


def test_what_is_written_is_read_back_even_where_a_yaml_version_would_misread_it() -> None:
    words = ["NO", "010", "0o10", "1e-3", "1_000", "null", "", "a: b", "x\ny", "<<", "on", "1:30"]
    value = {"words": words, "NO": 1, "small": 1e-05, "deep": [{"é": None}], "yes": True}
    assert parse_yaml(dump_yaml(value), "again").value == value


def test_each_key_and_entry_has_its_line() -> None:
    document = parse_yaml("a:\n  b: 1\n\n  c:\n  - x\n  - y\n", "run.yaml")
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c")] == 4
    assert document.lines[("a", "c", 1)] == 6


def test_an_anchor_may_be_used_again() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "run.yaml").value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3", 3, "given twice, first in line 1"),
        ("a: !!python/object/apply:os.system [x]", None, "!!python/object/apply:os.system"),
        ("a: !mine 3", None, "!mine is not allowed"),
        ("a: &x [1, *x]", None, "leads back into itself"),
        ("base: &b {x: 1}\nc:\n  <<: *b", 3, "merge keys"),
        ("12: x", 1, "'12' is not read as text; put it in quotes"),
        ("[a]: x", 1, "a key is a list"),
        ("a: !!int abc", None, "!!int does not fit"),
        (f"a: {'9' * 5000}", None, "too many digits"),
    ],
)
def test_what_could_be_misread_is_a_problem(text: str, line: int | None, says: str) -> None:
    (problem,) = parse_yaml(text, "run.yaml").problems
    assert says in problem.text
    assert problem.line == line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n\tb: 1", "run.yaml:2: not valid YAML: a tab; indent with spaces"),
        ("a: 1\n---\nb: 2", "run.yaml:2: not valid YAML: a second document"),
        ("a: b: c", "run.yaml:1: not valid YAML: mapping values"),
        ("a: 1\nb: [1", "run.yaml:2: not valid YAML: expected ',' or ']'"),
        ("a: 1\nb: '\x07'", "run.yaml:2: not valid YAML: a control character"),
        ("[" * 5000, "run.yaml: nested too deeply"),
    ],
)
def test_text_that_is_no_yaml_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "run.yaml")
    assert str(caught.value).startswith(says)


def test_aliases_cannot_blow_a_small_file_up() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        parse_yaml("\n".join(layers), "run.yaml")
