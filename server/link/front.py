"""The coordinator's only open port: it passes to the SuperLink what may pass, and nothing else.

Flower's SuperLink serves three interfaces on one port: hospitals' (each call signed by the site's
key), operators' (no login at all: whoever reaches it can stop runs and lock sites out), and that of
the coordinator's own processes. Behind this front the SuperLink listens on the loopback address
only. Hospitals get what a SuperNode needs, if the roster names their key; operators get four calls,
each with a signature; for everybody else nothing is there.
"""

import argparse
import asyncio
import logging
import resource
import ssl
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fedward.common.errors import FedwardError, TrustError
from fedward.common.kit import Kit, load_kit
from fedward.common.operator_auth import Doorkeeper
from fedward.server.link.door import MAX_CONNECTIONS, Bounded, Known, RosterFile, Seat
from fedward.server.link.superlink import split_address

FLEET = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        *("activate-node", "deactivate-node", "send-node-heartbeat"),
        *("pull-messages", "push-messages", "confirm-message-received"),
        *("get-run", "get-fab", "push-object", "pull-object"),
    )
)
"""What a SuperNode whose key is registered asks for: all but registering by itself."""
FOLLOW = "/v1/control/stream-logs"
CHANGES = frozenset({"/v1/control/start-run", "/v1/control/stop-run"})
CONTROL = frozenset({*CHANGES, FOLLOW, "/v1/control/list-runs"})
HEALTH = "/health"
FLEET_BYTES = 16 << 20
"""Largest call of a hospital; models travel in pieces of 5 MB."""
CONTROL_BYTES = 1 << 20
"""Largest call of an operator; a bundle and a request have less than 300 kB."""
PIECE_WITHIN_S = 60.0
CALL_WITHIN_S = 600.0
"""5 MB over a line of 70 kbit/s, each way."""
KEEP_ALIVE_S = 30
"""Longer than a SuperNode keeps an idle connection: it never writes into a closing one."""
NODE_KEY = "flwr-public-key"
_TO_SUPERLINK = httpx.Timeout(connect=5, read=120, write=60, pool=10)
_FOLLOWING = httpx.Timeout(connect=5, read=None, write=60, pool=10)
# uvicorn closes idle connections after 5 s: ours are given up before that.
_POOL = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=2)
_PASSED_ON = {b"content-type", b"content-length", b"accept", b"accept-encoding"}
_FLOWERS = b"flwr-"
_NOT_BACK = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"date", b"server"}
log = logging.getLogger("fedward.front")


class _RefusedError(Exception):
    """A call that is not passed on."""

    def __init__(self, status: int, why: str, told: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.told = told or why
        """What the caller hears."""


class _Body:
    """The body of a call, read piece by piece and only once."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what comes.

        Raises:
            _RefusedError: nothing came for too long.
            ClientDisconnect: nothing will come.
        """
        while not self._is_read:
            try:
                async with asyncio.timeout(PIECE_WITHIN_S):
                    message = await self._receive()
            except TimeoutError:
                # Not 408: a SuperNode tries again only on what it takes for our own trouble.
                raise _RefusedError(503, "the body stopped coming") from None
            if message["type"] != "http.request":
                raise ClientDisconnect
            self._is_read = not message.get("more_body", False)
            yield message.get("body", b"")

    async def whole(self) -> bytes:
        """Return all of it; its length was checked before."""
        return b"".join([piece async for piece in self.pieces()])

    async def drain(self) -> None:
        """Read and forget the rest: who still writes does not read the answer."""
        with suppress(_RefusedError, ClientDisconnect, TimeoutError):
            async with asyncio.timeout(PIECE_WITHIN_S):
                async for _ in self.pieces():
                    pass


class Front:
    """The ASGI program: judges a call by its path, its headers and, for operators, its body."""

    def __init__(self, kit: Kit, superlink: httpx.AsyncClient) -> None:
        """Keep whom to ask; `superlink` knows its address and whom to trust."""
        self._roster_file = RosterFile(kit)
        self._doorkeeper = Doorkeeper()
        self._superlink = superlink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        request, body = Request(scope), _Body(receive)
        # As it was sent: any other spelling of a path is simply not on the list.
        path = scope["raw_path"].decode("latin-1")
        try:
            async with asyncio.timeout(CALL_WITHIN_S):
                content = await self._admit(request, path, body)
                answer = await self._ask(request, path, content)
        except TimeoutError:
            slow = self._refuse(_RefusedError(503, "took too long"), request, path)
            await slow(scope, receive, send)
        except _RefusedError as refused:
            response = self._refuse(refused, request, path)
            if "connection" not in response.headers:
                await body.drain()
            await response(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await _pass_back(path, answer, receive, send)

    async def _admit(
        self, request: Request, path: str, body: _Body
    ) -> bytes | AsyncIterator[bytes] | None:
        """Return what is passed on as body.

        Raises:
            _RefusedError: the call may not pass.
        """
        if path == HEALTH and request.method in {"GET", "HEAD"}:
            return None
        if request.method != "POST" or path not in FLEET | CONTROL or request["query_string"]:
            raise _RefusedError(404, "there is nothing")
        if path in CONTROL:
            return await self._admit_operator(request, path, body)
        _check_length(request, FLEET_BYTES)
        known = self._known()
        if request.headers.get(NODE_KEY) not in known.node_keys:
            raise _RefusedError(401, f"not the key of a site of roster {known.roster.serial}")
        return body.pieces()

    async def _admit_operator(self, request: Request, path: str, body: _Body) -> bytes:
        _check_length(request, CONTROL_BYTES)
        try:
            claim = self._doorkeeper.claim(request.headers, self._known().roster)
            content = await body.whole()
            operator = self._doorkeeper.admit(claim, path, content, self._known().roster)
        except TrustError as error:
            raise _RefusedError(403, str(error)) from error
        if path in CHANGES:
            log.info("%s by %s, from %s", path.rpartition("/")[2], operator, _host(request))
        return content

    def _known(self) -> Known:
        try:
            return self._roster_file.known()
        except TrustError as error:
            told = "the coordinator cannot read its roster; see its log"
            raise _RefusedError(503, str(error), told) from error

    async def _ask(
        self, request: Request, path: str, content: bytes | AsyncIterator[bytes] | None
    ) -> httpx.Response:
        """Return the SuperLink's answer, whose body is still to come.

        Raises:
            _RefusedError: it cannot be reached; by the status SuperNodes know to try again.
        """
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name in _PASSED_ON or name.startswith(_FLOWERS)
        ]
        limits = _FOLLOWING if path == FOLLOW else _TO_SUPERLINK
        asked = self._superlink.build_request(
            request.method, path, headers=headers, content=content, timeout=limits
        )
        try:
            return await self._superlink.send(asked, stream=True)
        except httpx.TransportError as error:
            raise _RefusedError(
                503,
                f"the SuperLink does not answer ({type(error).__name__})",
                "the coordinator is being started; try again",
            ) from error

    def _refuse(self, refused: _RefusedError, request: Request, path: str) -> Response:
        # Somebody who looks whether anybody is there (`fedward check`) is not worth a line.
        if path != "/":
            log.warning("refused %s %s: %s", _host(request), ascii(path[:80]), refused)
        headers = {"connection": "close"} if refused.status in {411, 413} else None
        content = {"code": 0, "detail": refused.told}  # as the SuperLink says what is wrong
        return JSONResponse(content, refused.status, headers)


async def _pass_back(path: str, answer: httpx.Response, receive: Receive, send: Send) -> None:
    """Send the SuperLink's answer on, as it comes."""
    headers = [(n.lower(), v) for n, v in answer.headers.raw if n.lower() not in _NOT_BACK]
    try:
        await send(
            {"type": "http.response.start", "status": answer.status_code, "headers": headers}
        )
        if path == FOLLOW:
            await _while_listened(_pump(answer, send), receive)
        else:
            async with asyncio.timeout(CALL_WITHIN_S):
                await _pump(answer, send)
    except (httpx.TransportError, TimeoutError) as error:
        # Nothing can be said any more; uvicorn cuts the connection, and the other side tries again.
        log.warning("%s: its answer broke off (%s)", path, type(error).__name__)
    finally:
        await answer.aclose()


async def _pump(answer: httpx.Response, send: Send) -> None:
    async for piece in answer.aiter_raw():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _while_listened(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do the work until it is done or the other side has gone: a log can be silent for hours."""
    pumping = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())  # the body was read: only the end can come
    try:
        await asyncio.wait({pumping, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if pumping.done():
            pumping.result()
    finally:
        for task in (pumping, leaving):
            task.cancel()
        await asyncio.gather(pumping, leaving, return_exceptions=True)


def _check_length(request: Request, limit_bytes: int) -> None:
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        raise _RefusedError(411, "a body without a length")
    if int(length[:20]) > limit_bytes:
        raise _RefusedError(413, f"a body of {length[:20]} bytes, at most {limit_bytes} may come")


def _host(request: Request) -> str:
    return request.client.host if request.client else "somebody"


def make_server(kit: Kit, listen: str, superlink: str) -> tuple[uvicorn.Server, httpx.AsyncClient]:
    """Return the server, and the connections that it uses and that are to be closed after it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(kit.ca_file)
    client = httpx.AsyncClient(
        base_url=f"https://{superlink}", verify=context, limits=_POOL, trust_env=False
    )
    host, port = split_address(listen)
    config = uvicorn.Config(
        Front(kit, client),
        host=host,
        port=port,
        http=Seat,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=kit.server_cert,
        ssl_keyfile=kit.server_key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config), client


def front_command(kit: Kit, listen: str, superlink: str) -> list[str]:
    """Return the command of the front.

    Args:
        kit: the server's.
        listen: host:port for hospitals and operators.
        superlink: host:port of the SuperLink, on this machine.
    """
    return [
        *(sys.executable, "-I", "-m", "fedward.server.link.front"),
        *("--kit", str(kit.folder), "--listen", listen, "--superlink", superlink),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; return the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Bounded())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    for name in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="front", description=__doc__)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--superlink", required=True)
    args = parser.parse_args(argv)
    try:
        kit = load_kit(args.kit, "server")
        server, client = make_server(kit, args.listen, args.superlink)
    except FedwardError as error:
        log.error("%s", error)  # noqa: TRY400 - our own errors are shown without a traceback
        return error.exit_code
    _allow_many_connections()
    log.info("listens on %s for the SuperLink at %s", args.listen, args.superlink)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, client))
    return 0


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS  # those that have not yet said what they want are not counted
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


async def _serve(server: uvicorn.Server, client: httpx.AsyncClient) -> None:
    async with client:
        await server.serve()


if __name__ == "__main__":
    sys.exit(main())
