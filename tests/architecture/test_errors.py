"""Exit codes are a promise to scripts: stable, complete, and told to users."""

import ast
import re

import pytest

from fedward.common import errors
from fedward.common.errors import FedwardError
from fedward.deploy import cli
from tests.architecture.tree import FOLDERS, ROOT, modules

# A change here breaks the scripts of users: say so in the changelog.
PROMISED = {
    "FedwardError": 70,
    "ConfigError": 2,
    "RefusedError": 2,
    "SiteDataError": 3,
    "NoPatientsError": 3,
    "ShortfallError": 3,
    "NetworkError": 4,
    "TrustError": 4,
    "QuorumLostError": 5,
    "BudgetSpentError": 6,
    "StorageError": 7,
}


def listed_codes(text: str) -> set[int]:
    """Return the numbers in the part of `text` that begins with the words 'exit code'."""
    _, found, after = text.partition("xit code")
    return {int(number) for number in re.findall(r"\b\d+\b", after[:1500])} if found else set()


def test_exit_codes_are_the_promised_ones() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.__name__: kind.exit_code for kind in kinds if issubclass(kind, FedwardError)}
    assert known == PROMISED


def test_the_tree_at_the_top_of_the_file_shows_every_error_with_its_code() -> None:
    rows = re.findall(r"(\w+Error)\s+(\d+)\s", errors.__doc__ or "")
    assert {name: int(code) for name, code in rows} == PROMISED


def test_errors_that_users_see_are_defined_in_one_file() -> None:
    for path in modules(*FOLDERS):
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & set(PROMISED), f"{path}: {node.name}"


def test_the_commands_help_lists_every_exit_code() -> None:
    assert set(PROMISED.values()) | {0} <= listed_codes(cli._parser().format_help())


def test_the_readme_lists_every_exit_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if not readme.strip():
        pytest.skip("README.md is not written yet")
    assert set(PROMISED.values()) | {0} <= listed_codes(readme)


def test_an_error_is_an_exception_that_carries_its_message() -> None:
    assert str(FedwardError("run.yaml:3: rounds: given 0")) == "run.yaml:3: rounds: given 0"
