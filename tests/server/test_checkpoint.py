import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest

from fedward.common.errors import ConfigError, StorageError
from fedward.common.records import PARAMETERS
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.strategies import build_strategy, strategies
from tests.server.toy import run_toy

TARGETS = {"aachen": 1.0, "bern": 2.0, "cork": 3.0, "delft": 6.0}
OWN = {
    "qfedavg": {"client_learning_rate": 0.5},
    "fedavgm": {"server_momentum": 0.9},
    "fedprox": {"proximal_mu": 0.1},
}


@pytest.mark.parametrize("name", list(strategies))
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    own = OWN.get(name, {})
    whole, _ = run_toy(targets=TARGETS, strategy=name, own=own, rounds=6)
    run_toy(targets=TARGETS, strategy=name, own=own, rounds=3, folder=tmp_path)
    resumed, _ = run_toy(targets=TARGETS, strategy=name, own=own, rounds=6, folder=tmp_path)
    expected, found = (o.progress.vectors[PARAMETERS] for o in (whole, resumed))
    assert found.tobytes() == expected.tobytes()


def test_a_strategy_without_its_state_would_not_resume_alike(tmp_path: Path) -> None:
    """The test above can fail: momentum that starts anew gives another model."""
    own = OWN["fedavgm"]
    whole, _ = run_toy(targets=TARGETS, strategy="fedavgm", own=own, rounds=6)
    run_toy(targets=TARGETS, strategy="fedavgm", own=own, rounds=3, folder=tmp_path)
    newest = CheckpointFolder(tmp_path, "hash")
    forgotten = build_strategy("fedavgm", own, num_sites=4)
    progress = newest.load_newest(forgotten)
    assert progress is not None
    newest.save(progress, build_strategy("fedavgm", own, num_sites=4))
    resumed, _ = run_toy(targets=TARGETS, strategy="fedavgm", own=own, rounds=6, folder=tmp_path)
    expected, found = (o.progress.vectors[PARAMETERS] for o in (whole, resumed))
    assert found.tobytes() != expected.tobytes()


def test_global_random_generators_are_restored(tmp_path: Path) -> None:
    strategy = build_strategy("fedavg", {}, num_sites=2)
    folder = CheckpointFolder(tmp_path, "hash")
    folder.save(Progress(1, {PARAMETERS: np.zeros(2, np.float32)}), strategy)
    expected = (random.random(), np.random.random())  # noqa: NPY002
    random.random()
    folder.load_newest(strategy)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


def test_only_the_two_newest_are_kept(tmp_path: Path) -> None:
    run_toy(targets=TARGETS, rounds=5, folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-00004.safetensors",
        "round-00005.safetensors",
    ]


def test_a_full_disk_leaves_the_previous_checkpoint_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = build_strategy("fedavg", {}, num_sites=2)
    folder = CheckpointFolder(tmp_path, "hash")
    folder.save(Progress(1, {PARAMETERS: np.ones(2, np.float32)}), strategy)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        folder.save(Progress(2, {PARAMETERS: np.zeros(2, np.float32)}), strategy)
    progress = folder.load_newest(strategy)
    assert progress is not None
    assert progress.round_number == 1
    assert [p.name for p in tmp_path.iterdir()] == ["round-00001.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_really_full_device_gives_the_same_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".round-00001.safetensors.tmp").symlink_to("/dev/full")
    folder = CheckpointFolder(tmp_path, "hash")
    with pytest.raises(StorageError, match="No space left on device"):
        folder.save(
            Progress(1, {PARAMETERS: np.ones(100_000, np.float32)}),
            build_strategy("fedavg", {}, num_sites=2),
        )


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_toy(targets=TARGETS, rounds=5, folder=tmp_path)
    (tmp_path / "round-00005.safetensors").write_bytes(b"half")
    progress = CheckpointFolder(tmp_path, "hash").load_newest(
        build_strategy("fedavg", {}, num_sites=4)
    )
    assert progress is not None
    assert progress.round_number == 4
    assert "round-00005.safetensors cannot be read" in caplog.text


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run_toy(targets=TARGETS, rounds=1, folder=tmp_path)
    other = CheckpointFolder(tmp_path, "another hash")
    with pytest.raises(ConfigError, match="another configuration"):
        other.load_newest(build_strategy("fedavg", {}, num_sites=4))
