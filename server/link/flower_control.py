"""The SuperLink's Control API: runs and sites as Flower counts them.

What is private in flwr 1.41 and needed to steer a SuperLink is imported here; what a run needs
while it goes on is in `flower_runtime`. Flower's Control API asks for no login: our own processes
reach it on the loopback address, operators through the front, which wants each call signed. Sites
trust neither: they trust the signature inside the request.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedward.common.errors import NetworkError, TrustError
from fedward.common.keys import public_text, read_public
from fedward.common.operator_auth import Signer

REQUEST_KEY = "request"
RECENT_RUNS = 50
_UNKNOWN = httpx.codes.NOT_FOUND


@dataclass(frozen=True)
class RunInfo:
    """One Flower run; a run of ours takes several of them if it is interrupted."""

    run_id: int
    status: str
    """pending, starting, running or finished."""
    sub_status: str
    """Of a finished run: completed, failed or stopped."""
    details: str
    pending_at: str
    request: str
    """The signed request that it was started with; empty if somebody else started it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status == "finished"

    @property
    def was_stopped(self) -> bool:
        """Whether an operator ended it."""
        return self.is_over and self.sub_status == "stopped"


@dataclass(frozen=True)
class NodeState:
    """One site, as the SuperLink knows it."""

    node_id: int
    public_key: str
    """OpenSSH text without a comment, as in the roster; empty if it is none of ours."""
    name: str
    status: str
    """registered, online, offline or unregistered."""

    @property
    def is_online(self) -> bool:
        """Whether its SuperNode reports regularly."""
        return self.status == "online"

    @property
    def is_registered(self) -> bool:
        """Whether it may connect."""
        return self.status != "unregistered"


class Control:
    """A connection to a SuperLink's Control API, over TLS."""

    def __init__(self, address: str, ca: bytes, signer: Signer | None = None) -> None:
        """Keep where to connect; the first call connects.

        Args:
            address: host:port.
            ca: PEM certificate of the authority that issued the SuperLink's certificate.
            signer: signs each call, as the front wants it; the SuperLink itself wants none.
        """
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca,
            interceptors=[] if signer is None else [_Signing(signer)],
        )

    def start_run(self, bundle: bytes, request: str) -> int:
        """Submit a signed request and return the id of its Flower run.

        Raises:
            NetworkError: no connection, or the SuperLink refuses.
        """
        config = {REQUEST_KEY: Scalar(string=request)}
        with self._reported():
            answer = self._client.StartRun(
                StartRunRequest(fab=Fab(content=bundle), override_config=config)
            )
        if not answer.run_id:
            raise NetworkError(
                f"{self._address}: the coordinator did not take the run; see its log"
            )
        return answer.run_id

    def stop_run(self, run_id: int) -> bool:
        """Stop a Flower run for good; return False if it was over already."""
        try:
            with self._reported():
                return self._client.StopRun(StopRunRequest(run_id=run_id)).success
        except NetworkError:
            found = self.run(run_id)
            if found is None or found.is_over:
                return False
            raise

    def runs(self, limit: int = RECENT_RUNS) -> list[RunInfo]:
        """Return the newest Flower runs, newest first."""
        with self._reported():
            answer = self._client.ListRuns(ListRunsRequest(limit=limit))
        found = [_run_info(run) for run in answer.run_dict.values()]
        return sorted(found, key=lambda run: run.pending_at, reverse=True)

    def run(self, run_id: int) -> RunInfo | None:
        """Return one Flower run, or None if the SuperLink does not know it."""
        try:
            answer = self._client.ListRuns(ListRunsRequest(run_id=run_id))
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == _UNKNOWN:
                return None
            raise network_error(self._address, error) from error
        return _run_info(answer.run_dict[run_id]) if run_id in answer.run_dict else None

    def logs(self, run_id: int, *, follow: bool = False) -> Iterator[str]:
        """Yield what the run has said so far, piece by piece.

        Args:
            run_id: of a Flower run.
            follow: wait for more until the run is over.
        """
        with self._reported():
            stream = self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0))
            try:
                for piece in stream:
                    yield piece.log_output
                    if not follow:
                        return
            finally:
                stream.close()

    def register(self, public_key: str, name: str) -> int:
        """Let the site with this key connect; return its node id.

        Raises:
            NetworkError: the key is registered already, or was once and no longer is.
        """
        pem = read_public(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with self._reported():
            return self._client.RegisterNode(RegisterNodeRequest(public_key=pem, name=name)).node_id

    def unregister(self, node_id: int) -> None:
        """Keep a site from connecting. The SuperLink never takes the same key again."""
        with self._reported():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[NodeState]:
        """Return all sites that are or were registered."""
        with self._reported():
            answer = self._client.ListNodes(ListNodesRequest())
        return [
            NodeState(node.node_id, _key_text(node.public_key), node.name, node.status)
            for node in answer.nodes_info
        ]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise network_error(self._address, error) from error


class _Signing:
    """Adds an operator's signature to each call."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign the call and make it."""
        request = context.request
        request.headers.update(self._signer.headers(request.url.path, request.content))
        return call_next(context)


def network_error(address: str, error: httpx.HTTPError) -> NetworkError:
    """Return the error to show for a call to the coordinator at `address` that failed."""
    if isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        said = FlowerError.from_json(answer.text)
        why = said.message if said is not None else f"HTTP status {answer.status_code}"
        kind = TrustError if answer.status_code == httpx.codes.FORBIDDEN else NetworkError
        return kind(f"coordinator {address} refuses: {why}")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TrustError(
            f"coordinator {address}: its certificate is not trusted ({error}); "
            "compare the kit's ca.crt and the address with the coordinator's"
        )
    return NetworkError(
        f"coordinator {address}: no connection ({type(error).__name__}: {error}); "
        "check the address, the firewall and whether `fedward server` is running"
    )


def _run_info(run: Any) -> RunInfo:
    config: Mapping[str, Any] = run.override_config
    request = config[REQUEST_KEY].string if REQUEST_KEY in config else ""
    return RunInfo(
        run_id=run.run_id,
        status=run.status.status,
        sub_status=run.status.sub_status,
        details=run.status.details,
        pending_at=run.pending_at,
        request=request,
    )


def _key_text(pem: bytes) -> str:
    try:
        return public_text(load_pem_public_key(pem))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        return ""
