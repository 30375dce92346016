"""Who may import whom: deploy > simulations > server | client > synth > common."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, import_name, label, modules

MAY_IMPORT = {
    "common": set[str](),
    "synth": {"common"},
    "server": {"common"},
    "client": {"common", "synth"},
    "simulations": {"common", "synth", "server", "client"},
    "deploy": {"common", "synth", "server", "client", "simulations"},
}
READERS = {"pandas", "pydicom", "sdv"}


def imported(source: str) -> set[str]:
    """Return the dotted names that a module's source imports, at any level."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return plain | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def layers_of(source: str) -> set[str]:
    return {name.split(".")[1] for name in imported(source) if name.startswith("fedward.")}


@pytest.mark.parametrize("path", modules(*MAY_IMPORT), ids=label)
def test_a_module_imports_only_from_the_layers_below(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert layers_of(path.read_text(encoding="utf-8")) <= MAY_IMPORT[folder] | {folder}


@pytest.mark.parametrize("path", modules("server", "common"), ids=label)
def test_server_and_common_have_no_reader_of_patients(path: Path) -> None:
    names = imported(path.read_text(encoding="utf-8"))
    assert not READERS & {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "source", ["from fedward import server", "import fedward.server.rounds", "def f():\n import x"]
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert layers_of(source) == {"server"} or imported(source) == {"x"}


def test_a_running_server_has_not_loaded_a_reader_of_patients() -> None:
    names = [import_name(path) for path in modules("server")]
    banned = READERS | {"fedward.synth", "fedward.client"}
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"print(sorted({banned} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr
