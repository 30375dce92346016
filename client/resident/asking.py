"""The runner's side of the socket: ask the worker, and ask once more if it dies on a message."""

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Message, RecordDict

from fedward.client.resident import door, wire
from fedward.client.resident.tasks import Handler
from fedward.common.errors import NetworkError, RefusedError

MAX_SENDS = 2
WORKER_BACK_S = 60.0
"""How long the worker may take to come back in the middle of a message."""
_STALLED_S = 60.0
_RETRY_S = 0.5

_log = logging.getLogger("fedward.runner")


def through_worker(path: Path, *, back_s: float = WORKER_BACK_S) -> Handler:
    """Return the handler that asks the worker at the socket `path`.

    Args:
        path: where the worker listens.
        back_s: how long the worker may be away before a message is answered with an error.
    """

    def handle(message: Message, run_config: Mapping[str, wire.Plain]) -> RecordDict:
        meta = message.metadata
        asked = wire.Frame(
            meta.message_type,
            message.content,
            run=meta.run_id,
            node=meta.dst_node_id,
            message_id=meta.message_id,
            group_id=meta.group_id,
            run_config=run_config,
        )
        answer = ask(path, asked, back_s=back_s)
        if answer.kind != wire.REPLY:
            # Refused or failed: the worker wrote the reason in the knowledge that it leaves.
            raise RefusedError(answer.reason)
        return answer.records

    return handle


def ask(path: Path, frame: wire.Frame, *, back_s: float = WORKER_BACK_S) -> wire.Frame:
    """Return the worker's answer.

    The worker recognises a message that it began before. One that kills it each time must not
    keep the site from its other work, so it is sent twice at most.

    Raises:
        NetworkError: the worker is not there, or ended each time on this message.
        ValueError: the message or the answer cannot be a frame.
    """
    parts = wire.pack(frame)
    for _ in range(MAX_SENDS):
        with wait_for_worker(path, back_s) as connection:
            try:
                wire.send_packed(connection, parts)
                connection.settimeout(None)  # training takes as long as it takes
                return wire.receive(connection)
            except OSError as error:
                _log.warning("the worker ended before its answer (%s)", type(error).__name__)
    raise NetworkError(f"the site's worker ended {MAX_SENDS} times on this message")


def wait_for_worker(path: Path, back_s: float) -> socket.socket:
    """Return a connection that the worker has greeted, waiting for it if it is starting.

    A dying worker's socket takes connections for a moment; without the greeting such a one would
    count as a message that was sent. A worker that is busy is waited for without limit.

    Raises:
        NetworkError: it did not come within `back_s` seconds, or we may not ask it.
    """
    deadline = time.monotonic() + back_s
    while True:
        try:
            return _greeted(path)
        except PermissionError as error:
            raise NetworkError("the site's runner may not use the worker's socket") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"the site's worker did not answer within {back_s:g} s"
                ) from error
            time.sleep(_RETRY_S)


def _greeted(path: Path) -> socket.socket:
    connection = door.connect(path, timeout_s=_STALLED_S)
    try:
        connection.settimeout(None)
        greeting = connection.recv(len(door.GREETING))
        connection.settimeout(_STALLED_S)
    except BaseException:
        connection.close()
        raise
    if greeting != door.GREETING:
        connection.close()
        raise ConnectionError("turned away")
    return connection
