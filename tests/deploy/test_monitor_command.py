"""`fedward monitor`: what it follows, where it listens, and what it says when it cannot."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fedward.deploy.cli import main
from fedward.deploy.commands.monitor import source_of
from fedward.server.live.source import RunSource, SiteSource
from tests.client.clinic_site import make_site
from tests.server.live_stand import GrowingRun

FEDWARD = shutil.which("fedward", path=str(Path(sys.executable).parent)) or "fedward"


def test_a_run_is_found_by_folder_name_and_as_the_latest(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "runs" / "heart-1")
    (tmp_path / "runs" / "latest").symlink_to("heart-1")
    for place in (str(run.folder), "heart-1", "latest"):
        found = source_of(place, tmp_path / "runs")
        assert isinstance(found, RunSource)
        assert found.folder == run.folder.resolve()
        assert found.num_rounds == 10


def test_a_hospital_is_found_by_its_file_and_its_folder(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    for place in (site.folder, site.site.path):
        found = source_of(str(place), tmp_path / "runs")
        assert isinstance(found, SiteSource)
        assert found.folder == site.database.parent / "cme"


def test_what_is_neither_is_said_with_what_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "a run folder holds config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "--port: given 70000, expected 0 to 65535"),
        (["--interval", "0"], "--interval: given 0, expected 0.2 to 3600 s"),
        (["--interval", "nan"], "--interval: given nan"),
        (["--host", "no.such.name.invalid"], "is not a name or address of this machine"),
        (["--host", "192.0.2.1"], "cannot be used"),
    ],
)
def test_a_wrong_option_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    run = GrowingRun(tmp_path / "run")
    assert main(["monitor", str(run.folder), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = GrowingRun(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["monitor", str(run.folder), "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert f"127.0.0.1:{port} cannot be used" in told
    assert "Name another port" in told


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_serves_until_interrupted_and_warns_when_others_can_reach_it(
    tmp_path: Path, host: str, *, warns: bool
) -> None:
    run = GrowingRun(tmp_path / "run")
    run.round(1)
    process = subprocess.Popen(
        [FEDWARD, "monitor", str(run.folder), "--port", "0", "--host", host],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        port = re.search(r":(\d+)/", said)
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/") as answer:
            assert answer.status == 200
            assert answer.headers["Server"] == "fedward"
        time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("no login" in errors) is warns
    assert "Traceback" not in errors
