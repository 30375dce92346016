"""The resident worker: it owns the patients, imports torch once, and answers typed frames.

It needs no network. `python -I -m fedward.client.resident.worker --site site.yaml --kit KIT
--socket PATH`; the runner's user is named with `--peer-uid` where it is another one.
"""

import argparse
import logging
import os
import pwd
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from flwr.app import Message, Metadata, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedward.client.resident import door, wire
from fedward.client.resident.failures import failure, refusal
from fedward.common.errors import FedwardError, RefusedError

# Between two frames of bytes on a local socket; training happens while nothing is read.
STALLED_S = 60
MESSAGE_LIFETIME_S = 12 * 3600.0

_log = logging.getLogger("fedward.worker")


class Answerer(Protocol):
    """What a hospital does with a message."""

    def answer(self, message: Message, run_config: Mapping[str, object]) -> RecordDict:
        """Return the records of the reply.

        The same message may come again after a crash: what was accounted for it stays so.

        Raises:
            RefusedError: the site's rules do not allow it; the text is told to the coordinator.
        """
        ...  # a protocol has no body


def serve(path: Path, peer_uids: Collection[int], answerer: Answerer) -> None:
    """Answer frames at the socket `path`, one connection at a time, until the process ends.

    Args:
        path: in a folder that other users cannot enter.
        peer_uids: the users who may ask.
        answerer: does the work.

    Raises:
        ConfigError: the socket cannot be made there.
    """
    with door.listen(path) as waiting:
        _log.info("worker ready, pid %d", os.getpid())
        while True:
            connection, _ = waiting.accept()
            with connection:
                uid = door.peer_uid(connection)
                if uid in peer_uids:
                    _serve_one(connection, answerer)
                else:
                    _log.warning("user %d may not ask this worker; turned away", uid)


def _serve_one(connection: socket.socket, answerer: Answerer) -> None:
    connection.settimeout(STALLED_S)
    try:
        connection.sendall(door.GREETING)
        # The frame is held by nobody while the answer is sent: both may be large.
        parts = _answered(wire.receive(connection), answerer)
    except ConnectionError:
        return  # the runner looked whether somebody is here, or died; it will ask again
    except (ValueError, OSError) as error:
        parts = wire.pack(wire.Frame(wire.FAILED, reason=failure(error, _log)))
    try:
        wire.send_packed(connection, parts)
    except OSError as error:
        _log.warning("the runner went away before the reply (%s)", type(error).__name__)


def _answered(frame: wire.Frame, answerer: Answerer) -> list[wire.Part]:
    """Return the packed answer to `frame`, whatever happens."""
    try:
        if not frame.is_instruction:
            return wire.pack(wire.Frame(wire.FAILED, reason="the frame asks for nothing"))
        records = answerer.answer(_message(frame), frame.run_config)
        return wire.pack(wire.Frame(wire.REPLY, records))
    except RefusedError as error:
        reason = refusal(error)
        _log.warning("%s", reason)
        return wire.pack(wire.Frame(wire.REFUSED, reason=reason))
    except Exception as error:  # noqa: BLE001 - the runner waits for an answer, whatever happened
        return wire.pack(wire.Frame(wire.FAILED, reason=failure(error, _log)))


def _message(frame: wire.Frame) -> Message:
    """Return Flower's message, with the identity that the SuperLink gave it."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, frame.run, frame.node
    metadata = Metadata(
        run_id=frame.run,
        message_id=frame.message_id,
        src_node_id=1,  # the SuperLink
        dst_node_id=frame.node,
        reply_to_message_id="",
        group_id=frame.group_id,
        created_at=time.time(),
        ttl=MESSAGE_LIFETIME_S,
        message_type=frame.kind,
    )
    return Message(metadata=metadata, content=frame.records)  # type: ignore[call-overload, no-any-return] # "for internal use only"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit code."""
    parser = argparse.ArgumentParser(prog="fedward.client.resident.worker")
    parser.add_argument("--site", type=Path, required=True, help="site.yaml")
    parser.add_argument("--kit", type=Path, required=True, help="folder of the site's kit")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument(
        "--peer-uid",
        type=_uid,
        action="append",
        help="number or name of a user who may ask; default: our own",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        from fedward.client.hospital import open_hospital  # torch: after a wrong argument is told

        hospital = open_hospital(args.site, args.kit)
        serve(args.socket, set(args.peer_uid or [os.geteuid()]), hospital)
    except FedwardError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


def _uid(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no user {text}") from None


if __name__ == "__main__":
    sys.exit(main())
