"""Flower's SuperNode as a program that lives through broken lines, and ends when it gives up.

Four habits of flwr 1.41 would take a site away for good. The end of file that a dying server or
proxy leaves in a TLS connection counts as a wrong certificate, and is never tried again. A
SuperNode that has given up stays as a process, with its local API open and nobody behind it, so
that no supervisor starts it again. And after each message it sends the first reply that it finds:
once a run ended while its message was on the way, that is the reply to the message before, which
the coordinator no longer waits for, and so on for ever. And of a reply whose sender died on the
way it waits for the rest without limit.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

NEVER_COMES_S = 30.0
_BROKEN_LINE = ("unexpected_eof", "eof occurred", "record layer failure", "wrong_version_number")
_MAKER = "make_simple_http_retry_invoker"
_PUSH = "_push_messages"
_push: Callable[..., None] = vars(start_client_internal)[_PUSH]
_make_invoker: Callable[[], Any] = vars(fleet_http_connection)[_MAKER]


def main() -> None:
    """Run the SuperNode; never return."""
    vars(fleet_http_connection)[_MAKER] = patient_invoker
    vars(start_client_internal)[_PUSH] = push_until_answered
    code = 1
    try:
        flower_supernode()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the thread of its local API would keep the process for ever


def push_until_answered(*, state: Any, object_store: Any, **keys: Any) -> None:
    """Send replies as Flower does, until no message that came here is without one."""
    store = Impatient(object_store)
    _push(state=state, object_store=store, **keys)
    while any(not entry.message.metadata.reply_to_message_id for entry in _entries(state)):
        _push(state=state, object_store=store, **keys)


class Impatient:
    """An object store that gives up on an object which does not come.

    Flower then gives the reply up, and the site is there for the next message.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._missing_since: dict[str, float] = {}

    def get(self, object_id: str) -> bytes | None:
        """Return the object; empty: not there yet; None: unknown.

        Raises:
            TimeoutError: it was not there for `NEVER_COMES_S`.
        """
        content: bytes | None = self._store.get(object_id)
        if content == b"":
            since = self._missing_since.setdefault(object_id, time.monotonic())
            if time.monotonic() - since > NEVER_COMES_S:
                raise TimeoutError("a part of the reply never came from the runner")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _entries(state: Any) -> list[Any]:
    with state.lock_msg_store:
        return list(state.msg_store.values())


def patient_invoker() -> Any:
    """Return Flower's retry invoker, which also tries again after a broken TLS connection."""
    invoker = _make_invoker()
    gives_up = invoker.should_giveup

    def should_giveup(error: Exception) -> bool:
        text = str(error).lower()
        return not any(sign in text for sign in _BROKEN_LINE) and bool(gives_up(error))

    invoker.should_giveup = should_giveup
    # "502" from the hospital's proxy while the coordinator is away is no reason to give up either.
    invoker.recoverable_exceptions = (*invoker.recoverable_exceptions, httpx.ProxyError)
    return invoker


if __name__ == "__main__":
    main()
