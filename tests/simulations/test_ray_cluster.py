"""An existing Ray cluster, joined by its address."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.simulations.cli import main

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray head in the foreground, so that ending it ends all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=false", "--min-worker-port=0", "--max-worker-port=0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert head.stdout is not None
    for line in head.stdout:
        if "--block" in line:
            break
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_run_joins_a_cluster_and_leaves_it_running(cluster: str, tmp_path: Path) -> None:
    run = [
        "quickstart",
        "--out",
        str(tmp_path),
        "--set",
        "rounds=2",
        "--set",
        "baselines=[]",
        "--set",
        "repeat=null",
    ]
    run += ["--set", f"engine.address={cluster}", "--set", "engine.num_actors=2"]
    command = [sys.executable, "-m", "fedward.simulations.run", *run]
    for _ in range(2):  # the second finds it still there
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]


def test_an_address_without_a_cluster_is_a_network_error_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["quickstart", "--out", str(tmp_path), "--set", "engine.address=127.0.0.1:9"]
    assert main(arguments) == 4
    assert "no Ray cluster at 127.0.0.1:9" in capsys.readouterr().err
