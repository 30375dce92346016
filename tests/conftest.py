"""Fixtures that several folders of tests use."""

import os
from pathlib import Path

import pytest

CHOSEN = os.environ.get("FEDWARD_DATA_DIR")  # before any test changes it
BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the public data sets, and point FEDWARD_DATA_DIR to it."""
    folder = Path(CHOSEN) if CHOSEN else BESIDE_THE_REPOSITORY
    if not folder.is_dir():
        pytest.skip(
            "needs the public data sets: run `fedward data fetch heart-disease` and `fedward data "
            "fetch sepsis`, and set FEDWARD_DATA_DIR to the folder that holds them"
        )
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(folder))
    return folder
