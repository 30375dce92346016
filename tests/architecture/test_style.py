"""Limits that ruff does not know: sizes, and what must not be written down."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.tree import FOLDERS, ROOT, label, modules, text_files

MODULE_LINES = 450
FUNCTION_LINES = 60
SOURCES = modules(*FOLDERS, "tests")
# Assembled, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile("(?<![\\w.~{])/(?:" + "|".join(["work", "home", "root", "Users"]) + ")/")
UNFINISHED = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_module_fits_in_the_head(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MODULE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


def test_nothing_unfinished_and_no_path_of_one_machine_is_written_down() -> None:
    found = []
    for path in text_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        for pattern in (MACHINE_PATH, UNFINISHED):
            found += [
                f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)
            ]
    assert not found


def test_every_top_folder_has_a_page_of_half_a_page() -> None:
    for folder in (*FOLDERS, "tests"):
        page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        assert 5 <= len(page.splitlines()) <= 60, folder
