"""The worker's socket: closed to strangers, never in the place of something else."""

import os
import socket
import stat
from pathlib import Path

import pytest

from fedward.client.resident import door
from fedward.common.errors import ConfigError

pytestmark = pytest.mark.network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "socket"
    place.mkdir(mode=0o770)
    return place


def test_only_user_and_group_may_use_the_socket(folder: Path) -> None:
    before = os.umask(0)
    try:
        with door.listen(folder / "worker.sock"):
            mode = (folder / "worker.sock").stat().st_mode
            assert stat.S_IMODE(mode) == 0o660
        assert os.umask(0) == 0  # as it was
    finally:
        os.umask(before)


def test_a_folder_that_everybody_may_enter_is_refused(folder: Path) -> None:
    folder.chmod(0o775)
    with pytest.raises(ConfigError, match="chmod 2770"):
        door.listen(folder / "worker.sock")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        door.listen(tmp_path / "nowhere" / "worker.sock")


def test_a_stale_socket_of_ours_is_replaced(folder: Path) -> None:
    door.listen(folder / "worker.sock").close()
    with door.listen(folder / "worker.sock"), door.connect(folder / "worker.sock", timeout_s=1):
        pass


def test_a_worker_that_is_running_is_not_pushed_aside(folder: Path) -> None:
    path = folder / "worker.sock"
    with door.listen(path):
        with pytest.raises(ConfigError, match="another worker"):
            door.listen(path)
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_socket_is_never_removed(folder: Path, kind: str) -> None:
    path = folder / "worker.sock"
    if kind == "file":
        path.write_text("patients")
    else:
        path.symlink_to(folder / "elsewhere")
    with pytest.raises(ConfigError, match="not a socket of this user"):
        door.listen(path)
    assert path.is_symlink() or path.read_text() == "patients"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user: run as root")
def test_a_socket_of_another_user_is_never_removed(folder: Path) -> None:
    path = folder / "worker.sock"
    door.listen(path).close()
    os.chown(path, 65534, -1)
    with pytest.raises(ConfigError, match="not a socket of this user"):
        door.listen(path)


def test_the_kernel_tells_who_asks(folder: Path) -> None:
    path = folder / "worker.sock"
    with door.listen(path) as waiting, door.connect(path, timeout_s=1):
        connection, _ = waiting.accept()
        with connection:
            assert door.peer_uid(connection) == os.geteuid()


def test_a_path_longer_than_the_kernels_limit_works(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "worker.sock"
    path.parent.mkdir(mode=0o770)
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(path))
    with door.listen(path), door.connect(path, timeout_s=1):
        assert path.is_socket()
