"""Flower's SuperNode as a program that lives through broken lines, and ends when it gives up.

Three habits of flwr 1.41 would take a site away for good. The end of file that a dying server or
proxy leaves in a TLS connection counts as a wrong certificate, and is never tried again. A
SuperNode that has given up stays as a process, with its local API open and nobody behind it, so
that no supervisor starts it again. And after each message it sends the first reply that it finds:
once a run ended while its message was on the way, that is the reply to the message before, which
the coordinator no longer waits for, and so on for ever.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import httpx
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

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


def push_until_answered(*, state: Any, **keys: Any) -> None:
    """Send replies as Flower does, until no message that came here is without one."""
    _push(state=state, **keys)
    while any(not entry.message.metadata.reply_to_message_id for entry in _entries(state)):
        _push(state=state, **keys)


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
