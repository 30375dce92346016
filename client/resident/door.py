"""The Unix socket between runner and worker: who may knock, and how a long path is reached."""

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedward.common.errors import ConfigError

# The kernel's sockaddr_un has 108 bytes, one of them for the end.
_MAX_PATH_BYTES = 107
GREETING = b"\x01"
"""What the worker says to who may ask, once it is free to listen."""
_CREDENTIALS = struct.Struct("3i")


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, mode 0660, in place of our own stale one.

    Raises:
        ConfigError: the folder is missing or open to everybody, or something else is at `path`.
    """
    _check_folder(path.parent)
    _remove_stale(path)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)  # the mode is right from the first moment
    try:
        with _short(path) as address:
            door.bind(address)
        door.listen(4)
    except OSError as error:
        door.close()
        raise ConfigError(f"{path}: cannot listen there: {error.strerror}") from error
    except BaseException:
        door.close()
        raise
    finally:
        os.umask(before)
    return door


def connect(path: Path, *, timeout_s: float) -> socket.socket:
    """Return a connection to the worker at `path`.

    Raises:
        OSError: nobody listens there, or it is not ours to use.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with _short(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel knows it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)


def _check_folder(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; it holds the worker's socket") from error
    if mode & 0o007:
        raise ConfigError(f"{folder}: is open to every user of this machine; chmod 2770 {folder}")


def _remove_stale(path: Path) -> None:
    """Remove a socket of ours that nobody serves any more; refuse anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"{path}: is not a socket of this user; move it away")
    try:
        connect(path, timeout_s=5).close()
    except OSError as error:
        if error.errno != errno.ECONNREFUSED:
            raise ConfigError(f"{path}: cannot be checked: {error.strerror}") from error
        path.unlink()
        return
    raise ConfigError(f"{path}: another worker of this site is running; stop it first")


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give an address for `path` that fits the kernel's limit, by way of its open folder."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
