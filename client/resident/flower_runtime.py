"""All that a site touches of Flower's inside, for flwr 1.41 exactly: the SuperNode's Runtime API.

Two of Flower's own helpers are left out on purpose. Its retry invoker answers a 401 with SIGINT to
the whole process, and its heartbeat does so when a run is stopped; a resident process must live on.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedward.client.resident.wire import Plain
from fedward.common.errors import NetworkError, TrustError

CLIENT_APP = str(TaskType.CLIENT_APP)
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
# A task's token lives for 30 s before the pull and 60 s after it.
_HEARTBEAT_S = 10.0
# A task is offered a moment before its objects are there; who pulls at once waits a whole second.
_SETTLE_S = 0.3
STANDS_STILL_S = 30.0
"""So long nothing of a message may come. A run that ends while its message is on the way leaves
objects that never come, and Flower would ask for them for two hours."""


@dataclass(frozen=True, repr=False)
class TaskInput:
    """A message, and the run that it belongs to."""

    message: Message
    run_config: Mapping[str, Plain]
    """Text of the coordinator: to be verified by who uses it."""
    bundle: bytes


class SiteTask:
    """One claimed task; its token is kept alive as long as the `with` lasts."""

    def __init__(self, client: RuntimeHttpClient, kind: str, progress: "_Progress") -> None:
        self.kind = kind
        self.is_lost = False
        """Whether the SuperNode gave the task up, such as for a stopped run."""
        self._client = client
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._context: Context | None = None
        self._progress = progress
        self._is_pulled = False

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._heart.join()
        self._client.close()

    def pull(self) -> TaskInput:
        """Return what is to be done.

        Raises:
            NetworkError: the SuperNode did not give it.
        """
        time.sleep(_SETTLE_S)
        try:
            message, context, run, fab = pull_task_input(self._client)
        except httpx.HTTPError as error:
            raise NetworkError(f"the task cannot be pulled: {_told(error)}") from error
        self._context = context
        self._is_pulled = True
        # The context belongs to a series of runs, the override to this run alone.
        return TaskInput(message, {**context.run_config, **run.override_config}, fab.content)

    def push(self, reply: Message) -> None:
        """Hand the reply to the SuperNode.

        Raises:
            NetworkError: the SuperNode did not take it.
        """
        assert self._context is not None, "a task is pulled before it is answered"
        try:
            push_message(self._client, reply, self._context)
        except httpx.HTTPError as error:
            raise NetworkError(f"the reply cannot be pushed: {_told(error)}") from error

    def finish(self, details: str) -> None:
        """Tell the SuperNode that the task is over; only after its reply was pushed.

        Without a reply the SuperNode would wait for ever. Left alone, the token expires within
        a minute and the SuperNode answers the coordinator itself.

        Args:
            details: what went wrong, empty if nothing.
        """
        status = SubStatus.FAILED if details else SubStatus.COMPLETED
        # No context: whatever a site must remember lives in its own database.
        push_task_output(self._client, None, status, details)

    def _beat(self) -> None:
        while not self._done.is_set() and not self.is_lost:
            if not self._is_pulled and self._progress.stands_still:
                return  # the run has ended and its objects never come: let the token expire
            try:
                answer = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
                self.is_lost = not answer.success
            except httpx.HTTPError:
                pass  # the push will tell; until then the token may well outlive a short break
            self._done.wait(_HEARTBEAT_S)


class SiteRuntime:
    """The SuperNode's offer of tasks, with the secret that keeps local strangers out."""

    def __init__(self, address: str, certificate: bytes, secret: bytes) -> None:
        self._address, self._certificate = address, certificate
        self._acquiring = self._client(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        )
        # Agent apps are asked for to be refused: a task that nobody takes is never answered.
        kinds = [TaskType.CLIENT_APP, TaskType.AGENT_APP]
        self._wanted = AcquireTaskRequest(supported_task_types=kinds)

    def acquire(self) -> SiteTask | None:
        """Claim the oldest task, or return None when there is nothing to do.

        Raises:
            NetworkError: the SuperNode is not there.
            TrustError: it does not accept our secret.
        """
        try:
            got = self._acquiring.AcquireTask(self._wanted)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
                raise TrustError(
                    f"the SuperNode at {self._address} does not accept this runner's secret; "
                    "restart both, so that they read the same file"
                ) from error
            raise NetworkError(_told(error)) from error
        except httpx.HTTPError as error:
            raise NetworkError(_told(error)) from error
        if not got.HasField("task") or not got.token:
            return None
        progress = _Progress()
        client = self._client(RuntimeTokenHttpInterceptor(got.token), progress)
        return SiteTask(client, str(got.task.type), progress)

    def close(self) -> None:
        """Close the connection."""
        self._acquiring.close()

    def _client(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._certificate,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                *interceptors,
            ],
        )


class _Progress:
    """Notes when the last object of a message came."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    @property
    def stands_still(self) -> bool:
        return time.monotonic() - self._last > STANDS_STILL_S

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        response = call_next(context)
        if not context.rpc_method.endswith("/PullObject") or not response.is_success:
            return response
        if PullObjectResponse.FromString(response.content).object_available:
            self._last = time.monotonic()
        elif self.stands_still:
            raise httpx.ReadTimeout("a part of the message never came", request=context.request)
        return response


def _told(error: httpx.HTTPError) -> str:
    """Return the kind of the error, and the status if there is one; the rest may be long."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__
