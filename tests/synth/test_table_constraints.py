"""Rules within a row: comparisons of columns and numbers, and nothing else."""

import numpy as np
import pandas as pd
import pytest

from fedward.common.errors import ConfigError
from fedward.synth.tables.constraints import Constraint

ROWS = pd.DataFrame({"a": [1.0, 2.0, 3.0, np.nan], "b": [2.0, 2.0, 2.0, 2.0], "c": [0.0, 3, 1, 1]})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a <= b", [True, True, False, True]),
        ("a < b", [True, False, False, True]),
        ("a >= b > c", [False, False, True, True]),
        ("3 > a + c / 2", [True, False, False, True]),
        ("a * b - 2 >= 0", [True, True, True, True]),
        ("a / c < 5", [False, True, True, True]),
    ],
)
def test_a_row_keeps_a_rule_or_breaks_it(text: str, kept: list[bool]) -> None:
    # A row that lacks a value breaks none; a number over zero is infinite.
    assert Constraint.parse(text).holds(ROWS).tolist() == kept


@pytest.mark.parametrize(
    "text",
    ["", "a", "a == b", "a <", "1 < 2", "__import__('os').getcwd() < a", "a.b < 1", "a < 'x'",
     "a < True", "f(a) < 1", "a ** 9 < 1", "a < b if c else a", "[a] < b", "-a < b"],
)  # fmt: skip
def test_anything_but_comparisons_of_numbers_and_columns_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="constraints"):
        Constraint.parse(text)


def test_a_rule_knows_its_columns() -> None:
    assert Constraint.parse("a + c >= b > a").names == ("a", "c", "b")
