"""What keeps the live page to those who were meant to see it: names, headers, a policy.

The page has no login. On the loopback interface only this machine's users reach it, and a web page
that some browser here has open must not: it could name this server as its own (DNS rebinding), so
a request must name an address or a name of this machine. The page only reads.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from flask import Flask, Response, abort, request

from fedward.common.errors import ConfigError

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SUITES = "/_dash-component-suites/"


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address to bind to, is reached from this machine only.

    Raises:
        ConfigError: the name is not known here.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"--host: {host!r} is not a name or address of this machine ({error.strerror}); "
            "leave it out for 127.0.0.1"
        ) from None
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def names_of(host: str) -> frozenset[str]:
    """Return the names by which a browser may ask a server that is bound to `host`.

    Addresses are not among them: a page of somebody else cannot be served under one of ours.
    """
    own = {socket.gethostname(), socket.getfqdn()} if not is_loopback(host) else set()
    return frozenset({"localhost", host.lower(), *(name.lower() for name in own)})


def policy(script_hashes: Iterable[str]) -> str:
    """Return the content security policy: scripts and requests of this server, nothing else.

    Styles may be inline because plotly.js and Dash set them on elements.

    Args:
        script_hashes: of the scripts within the page, as `'sha256-...'`.
    """
    return (
        f"default-src 'none'; script-src 'self' {' '.join(script_hashes)}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def protect(server: Flask, *, names: frozenset[str], content_policy: str) -> None:
    """Refuse requests under foreign names, and send the headers that bound what the page may do."""

    @server.before_request
    def _known_name_only() -> None:
        if not _is_ours(request.headers.get("Host", ""), names):
            abort(421, "This server does not answer under that name; use its address.")

    @server.after_request
    def _with_headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.path.startswith(_SUITES) and response.status_code == 200:
            # Libraries under names that change with their version.
            response.headers["Cache-Control"] = "private, max-age=3600"
        response.headers["Content-Security-Policy"] = content_policy
        return response


def _is_ours(host_header: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
