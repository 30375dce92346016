"""What is installed is what is here: packages, the wheel, the command and the locks."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.tree import FOLDERS, ROOT, modules

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


BUNDLE = Path("deploy/flower_app")
"""Data of `fedward.deploy`: what Flower ships with a run; nothing imports it."""
ONLY_HERE = (Path("deploy/services"), Path("deploy/local_federation.sh"))
"""For people with the repository: units, image, proxy, and the trial on one machine."""


def shipped(root: Path) -> set[Path]:
    """Return every file in the top folders, relative to `root`, but pages and caches."""
    found = {
        path.relative_to(root)
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix != ".md" and "__pycache__" not in path.parts
    }
    return {path for path in found if not any(path.is_relative_to(one) for one in ONLY_HERE)}


def packages() -> set[str]:
    """Return the import name of each folder that holds something to ship."""
    found = {path for path in shipped(ROOT) if not path.is_relative_to(BUNDLE)}
    return {".".join(("fedward", *path.parent.parts)) for path in found}


def pins(name: str) -> dict[str, str]:
    """Return the exact version of each package in a lock file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)==([\w.+]+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_every_package_is_listed() -> None:
    # One that is not imports fine here and is missing from the wheel.
    assert packages() == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_every_top_folder_is_mapped_typed_and_linked_for_type_checkers() -> None:
    mapped = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert mapped == {f"fedward.{folder}": folder for folder in FOLDERS}
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").is_file()
        assert (ROOT / ".typing" / "fedward" / folder / "__init__.py").is_file()


def test_every_package_has_an_init_that_says_what_lives_there() -> None:
    inits = {path.parent for path in modules(*FOLDERS) if path.name == "__init__.py"}
    assert {path.parent for path in modules(*FOLDERS)} == inits


def test_no_script_neighbour_shadows_an_import() -> None:
    # `python simulations/run.py` puts simulations/ first on sys.path.
    beside = (ROOT / "simulations").iterdir()
    neighbours = {path.stem for path in beside if path.is_dir() or path.suffix == ".py"}
    installed = set(metadata.packages_distributions())
    assert neighbours & (set(sys.stdlib_module_names) | installed) == set()


def test_the_command_is_installed_and_can_be_loaded() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="fedward")
    assert callable(cast("Callable[..., Any]", entry.load()))


def test_the_installed_version_is_the_one_in_pyproject() -> None:
    assert metadata.version("fedward") == PYPROJECT["project"]["version"]


def test_the_wheel_holds_every_module_configuration_template_and_type_marker(
    tmp_path: Path,
) -> None:
    # Built from a copy: setuptools would pick up what earlier builds left in build/.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache*"))
    command = ["pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", *command, tmp_path], cwd=source, check=True)
    (wheel,) = tmp_path.glob("fedward-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"fedward/{path.as_posix()}" for path in shipped(source)}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", PYPROJECT["project"]["dependencies"]),
        ("requirements-dev.lock", PYPROJECT["dependency-groups"]["dev"]),
    ],
)
def test_a_lock_pins_each_requirement_within_its_range(lock: str, requirements: list[str]) -> None:
    locked = pins("requirements.lock") | pins(lock)
    for requirement in map(Requirement, requirements):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} does not pin {requirement.name}"
        assert version in requirement.specifier, requirement


def test_the_locks_name_no_host_and_no_gpu_package_is_forced_on_others() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(encoding="utf-8")
    assert not [name for name in pins("requirements.lock") if name.startswith(("nvidia", "cuda"))]
    assert pins("requirements.lock")["torch"] == "2.13.0"
