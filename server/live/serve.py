"""Serves the live page to browsers until it is told to stop."""

import logging
from collections.abc import Callable

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from fedward.common.errors import ConfigError
from fedward.server.live.app import make_app
from fedward.server.live.guard import names_of
from fedward.server.live.source import Source

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.2, 3600.0


def open_server(source: Source, *, host: str, port: int, interval_s: float) -> BaseWSGIServer:
    """Return a server that is bound, and answers once `serve_forever` is called.

    Args:
        source: what is followed.
        host: a name or address of this machine.
        port: 0 to 65535; 0: any that is free.
        interval_s: seconds between two looks at the folder.

    Raises:
        ConfigError: the address cannot be bound, or a number is out of its range.
    """
    if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        raise ConfigError(
            f"--interval: given {interval_s:g}, expected {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g} s"
        )
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port: given {port}, expected 0 to 65535")
    # The server says each request and its own address there; the command says what matters.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = make_app(source, names=names_of(host), interval_s=interval_s)
    try:
        return make_server(host, port, app.server, threaded=True, request_handler=_QuietHandler)
    except (OSError, SystemExit) as error:  # it exits by itself where the port is taken
        raise ConfigError(
            f"--port: {host}:{port} cannot be used ({_reason(error)}); is another page open there? "
            "Name another port, or 0 for any that is free"
        ) from None


def serve(server: BaseWSGIServer, *, on_end: Callable[[], None] = lambda: None) -> None:
    """Answer until interrupted."""
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        on_end()
    finally:
        server.server_close()


class _QuietHandler(WSGIRequestHandler):
    """Tells nobody which software this is, and logs no requests."""

    server_version = "fedward"
    sys_version = ""

    def version_string(self) -> str:
        return "fedward"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or "already taken")
