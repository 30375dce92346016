"""What the pages show works: Python blocks run, commands parse, links lead somewhere."""

import contextlib
import doctest
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedward.deploy import cli
from tests.architecture.tree import FOLDERS, ROOT, import_name, label, modules

PAGES = [
    ROOT / "README.md",
    *(ROOT / folder / "README.md" for folder in (*FOLDERS, "tests")),
    *sorted((ROOT / "deploy" / "docs").glob("*.md")),
]
FENCE = re.compile(
    r"^(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL
)
SLOW = "<!-- slow -->"
"""Written above a block that takes long: it is run by `make test-all` only."""


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    body: str
    is_slow: bool


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = "\n" + page.read_text(encoding="utf-8")
    return [
        Block(
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start('language'))}",
            match["language"],
            match["body"],
            SLOW in match["before"],
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES if page.exists() for block in blocks_of(page)]
PYTHON = [
    pytest.param(block, id=block.place, marks=[pytest.mark.slow] if block.is_slow else [])
    for block in BLOCKS
    if block.language == "python"
]
LINES = [
    pytest.param(line.strip().removeprefix("$ "), id=f"{block.place}-{number}")
    for block in BLOCKS
    if block.language in ("bash", "sh", "console")
    for number, line in enumerate(block.body.replace("\\\n", " ").splitlines())
    if line.strip().removeprefix("$ ").startswith(("fedward ", "make "))
]
WITH_DOCTESTS = [path for path in modules(*FOLDERS) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("block", PYTHON)
def test_a_python_block_runs(block: Block, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", block.body],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_one_that_exists(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        target = next(word for word in arguments if "=" not in word)
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
        return
    with contextlib.suppress(SystemExit) if "--help" in arguments else contextlib.nullcontext():
        cli._parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("path", WITH_DOCTESTS, ids=label)
def test_examples_in_docstrings_hold(path: Path) -> None:
    # Under the true name: a second copy of the module would have classes of its own.
    outcome = doctest.testmod(importlib.import_module(import_name(path)))
    assert outcome.attempted > 0
    assert outcome.failed == 0
