"""What the page for CT data shows can be done: its files are right, and its example runs."""

import re
import shlex
from pathlib import Path

import pytest

from fedward.common.config.loader import load_run_config
from fedward.common.tables.schema import load_schema
from fedward.deploy.cli import main
from tests.architecture.tree import ROOT

PAGE = (ROOT / "deploy" / "docs" / "ct_data.md").read_text(encoding="utf-8")
FILE = re.compile(r"^```yaml\n# (?P<name>[\w.-]+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = PAGE.partition("## Try it with phantoms")[2].partition("\n## ")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in FILE.finditer(PAGE):
        (tmp_path / file["name"]).write_text(file["body"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDWARD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_schema_and_run_can_be_read_and_fit_together(folder: Path) -> None:
    config = load_run_config(folder / "run.yaml").config
    schema = load_schema(config.data.schema_name, folder)
    assert schema.image is not None
    assert config.data.image is not None
    assert len(config.data.image.size) == 3


@pytest.mark.slow
def test_the_example_runs_and_leaves_what_the_page_says(folder: Path) -> None:
    commands = [line for line in EXAMPLE.splitlines() if line.startswith("fedward ")]
    assert len(commands) == 4
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0, line
    named = set(re.findall(r"`(masks/[\w.]+|\w+\.csv)`", EXAMPLE))
    assert len(named) == 5
    assert [name for name in named if not (folder / "found" / name).is_file()] == []
