"""The runner's loop: claim a task, compare its bundle, have it answered, push the reply.

A reply, good or bad, always goes out, because the SuperNode waits for it without limit. Where even
the push fails, the task is left to expire: the SuperNode then answers the coordinator itself.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedward.client.resident.failures import failure, one_line
from fedward.client.resident.flower_runtime import CLIENT_APP, SiteRuntime, SiteTask, TaskInput
from fedward.client.resident.wire import Plain
from fedward.common.errors import NetworkError, RefusedError, TrustError

Handler = Callable[[Message, Mapping[str, Plain]], RecordDict]
"""Returns the records of the reply; the text of a RefusedError or NetworkError leaves the site."""

_POLL_S = 0.2
_RETRY_S = 2.0

_log = logging.getLogger("fedward.runner")


def run(runtime: SiteRuntime, accepted: Collection[str], handle: Handler) -> None:
    """Do task after task, until the process ends.

    Args:
        runtime: offers the tasks.
        accepted: SHA-256 of the bundles that this site knows, in hexadecimal.
        handle: answers a message, given its run's configuration.

    Raises:
        TrustError: the SuperNode does not accept our secret.
    """
    is_silent = False
    while True:
        try:
            task = runtime.acquire()
        except TrustError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing is lost while the SuperNode is away
            if not is_silent:
                failure(error, _log)
            is_silent = True
            time.sleep(_RETRY_S)
            continue
        if is_silent:
            _log.info("the SuperNode is back")
        is_silent = False
        if task is None:
            time.sleep(_POLL_S)
        else:
            do_task(task, accepted, handle)


def do_task(task: SiteTask, accepted: Collection[str], handle: Handler) -> None:
    """Answer one task. Failures are answered or logged, never raised."""
    with task:
        try:
            asked = task.pull()
        except Exception as error:  # noqa: BLE001 - the next task must not suffer
            failure(error, _log)  # there is no message to reply to: the token expires
            return
        reply, reason = _answer(task.kind, asked, accepted, handle)
        del asked  # a model, as the reply is
        if task.is_lost:
            _log.warning("the run was stopped meanwhile; the reply is dropped")
            return
        try:
            task.push(reply)
            task.finish(reason)
        except Exception as error:  # noqa: BLE001 - Flower raises many kinds here
            failure(error, _log)


def check_bundle(kind: str, bundle: bytes, accepted: Collection[str]) -> None:
    """Check that the task is one that this site knows.

    The bytes are hashed: Flower's node does not compare the claimed hash with them.

    Raises:
        RefusedError: it is an agent's task, or the bundle is not on the site's list.
    """
    if kind != CLIENT_APP:
        raise RefusedError(f"refused: this site runs no tasks of type {kind}")
    found = hashlib.sha256(bundle).hexdigest()
    if found not in accepted:
        known = ", ".join(sorted(entry[:16] for entry in accepted))
        raise RefusedError(
            f"refused: bundle {found[:16]} is not on this site's list ({known}); "
            "coordinator and site must use the same version of fedward"
        )


def _answer(
    kind: str, asked: TaskInput, accepted: Collection[str], handle: Handler
) -> tuple[Message, str]:
    """Return the reply, and what went wrong if something did."""
    begun, message, meta = time.monotonic(), asked.message, asked.message.metadata
    try:
        check_bundle(kind, asked.bundle, accepted)
    except RefusedError as error:
        reason = one_line(str(error))
        _log.warning("%s", reason)
        return Message(Error(ErrorCode.INVALID_FAB, reason), reply_to=message), reason
    try:
        content = handle(message, asked.run_config)
    except (RefusedError, NetworkError) as error:
        reason = one_line(str(error))
        _log.warning("%s", reason)
    except Exception as error:  # noqa: BLE001 - the SuperNode waits for a reply, whatever it is
        reason = failure(error, _log)
    else:
        wall_s = time.monotonic() - begun
        _log.info("%s, round %s: %.2f s", meta.message_type, meta.group_id or "-", wall_s)
        return Message(content, reply_to=message), ""
    error_reply = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return Message(error_reply, reply_to=message), reason
