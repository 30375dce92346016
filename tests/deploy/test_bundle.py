"""The bundle is the same everywhere, and Flower takes it."""

import hashlib
import io
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import get_fab_metadata

from fedward.deploy.bundle import bundle, bundle_hash

APP = Path(__file__).parents[2] / "deploy" / "flower_app"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in flwr
def test_the_bundle_is_byte_for_byte_what_flower_builds_from_the_same_folder() -> None:
    assert bundle() == build_fab_from_disk(APP)


def test_the_hash_is_that_of_the_bytes() -> None:
    assert bundle_hash() == hashlib.sha256(bundle()).hexdigest()


def test_two_builds_give_the_same_bytes() -> None:
    first = bundle()
    bundle.cache_clear()
    assert bundle() == first


def test_nothing_in_the_bundle_is_compressed() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_flower_reads_the_name_and_this_version_from_the_bundle() -> None:
    assert get_fab_metadata(bundle()) == ("fedward/fedward-app", version("fedward"))


def test_the_bundle_names_the_flower_version_that_is_installed() -> None:
    settings = tomllib.loads((APP / "pyproject.toml").read_text())
    assert settings["tool"]["flwr"]["app"]["flwr-version-target"] == version("flwr")


def test_the_bundle_declares_the_key_that_carries_a_request() -> None:
    settings = tomllib.loads((APP / "pyproject.toml").read_text())
    assert settings["tool"]["flwr"]["app"]["config"]["request"] == ""


@pytest.mark.parametrize("name", ["LICENSE", "pyproject.toml", "fedward_app/client_app.py"])
def test_the_bundle_holds_what_flower_asks_for(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        assert name in archive.namelist()
