"""The SuperLink's Runtime API: taking over runs, and the grid that reaches the sites.

Flower's own launcher unpacks the bundle, installs what it asks for and runs it. Ours only compares
its hash. Three habits of Flower's client are left out on purpose: it interrupts its own process
when a token is refused, and when a run is stopped, and looks for replies only every 3 s.
"""

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import httpx
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import fab_from_proto, run_from_proto
from flwr.proto.log_pb2 import PushLogsRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedward.common.errors import NetworkError
from fedward.server.link.flower_control import REQUEST_KEY, network_error

POLL_S = 0.5
HEARTBEAT_S = 10.0
PATIENCE_S = 120.0
"""How long a run waits for a SuperLink that is being started again."""
LINES_S = 1.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_WORTH_A_RETRY = {502, 503, 504}
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A run that this coordinator has taken over, and the token that says so."""

    run_id: int
    is_run: bool
    """False for what Flower knows besides, such as agents: we refuse it."""
    token: str = field(repr=False)


@dataclass(frozen=True)
class TaskInput:
    """What a Flower run was started with."""

    run_id: int
    request: str
    bundle: bytes
    run: Run


class Runtime:
    """The SuperLink's Runtime API for the one who holds the SuperExec secret."""

    def __init__(self, address: str, ca: bytes, secret: bytes) -> None:
        """Keep where to connect; the first call connects."""
        self._address, self._ca = address, ca
        self._client = _client(
            address,
            ca,
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
        )

    def acquire(self) -> Task | None:
        """Take over the oldest waiting run, if there is one.

        Raises:
            NetworkError: no connection, or the secret is not the SuperLink's.
        """
        # All kinds are asked for: those that we refuse would otherwise wait for ever.
        kinds = [TaskType.SERVER_APP, TaskType.AGENT_APP, TaskType.SIMULATION]
        try:
            answer = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=kinds))
        except httpx.HTTPError as error:
            raise network_error(self._address, error) from error
        if not answer.HasField("task") or not answer.token:
            return None
        task = answer.task
        return Task(task.run_id, task.type == TaskType.SERVER_APP, answer.token)

    def give_up(self, task: Task, details: str) -> None:
        """Tell the SuperLink that a run has failed, unless it knows already."""
        client = _client(self._address, self._ca, RuntimeTokenHttpInterceptor(task.token))
        request = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=details)
        try:
            with suppress(httpx.HTTPError):  # the token has expired: the SuperLink ends it itself
                client.PushTaskOutput(request)
        finally:
            client.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class TaskLink:
    """All that the process of one run says to the SuperLink."""

    def __init__(self, address: str, ca: bytes, token: str) -> None:
        """Keep where to connect; `start` connects.

        Args:
            address: host:port of the Runtime API.
            ca: PEM certificate of the authority.
            token: of the task.
        """
        self._address, self._ca, self._token = address, ca, token
        # Without patience: a heartbeat or a line that fails is simply sent again later.
        self._aside = _client(address, ca, RuntimeTokenHttpInterceptor(token))
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self.is_over = threading.Event()
        """Set when the SuperLink says that the run was stopped or has expired."""
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> TaskInput:
        """Tell the SuperLink that the run is alive, and return what it was started with.

        Raises:
            NetworkError: no connection, or the task is no longer ours.
        """
        with self._patient() as client:
            answer = client.PullTaskInput(PullTaskInputRequest())
        run, fab = run_from_proto(answer.run), fab_from_proto(answer.fab)
        TaskIdentity.task_id = answer.task_id
        TaskIdentity.run_id = run.run_id
        TaskIdentity.node_id = answer.context.node_id
        for work in (self._beat, self._upload):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        request = run.override_config.get(REQUEST_KEY, "")
        return TaskInput(run.run_id, str(request), fab.content, run)

    def grid(self, task: TaskInput) -> "RunGrid":
        """Return the grid that reaches the sites of this run."""
        grid = RunGrid(self._address, self._ca, self._token, self.is_over)
        grid.set_run(task.run)
        return grid

    def say(self, line: str) -> None:
        """Add a line to the run's log, which operators can read."""
        with self._lock:
            self._lines.append(line.rstrip("\n") + "\n")

    def finish(self, *, completed: bool, details: str = "") -> None:
        """Send the last lines and how the run ended, and close.

        Raises:
            NetworkError: it could not be said; the SuperLink ends the run by itself.
        """
        self._pause()
        try:
            self._send_lines()
            status = SubStatus.COMPLETED if completed else SubStatus.FAILED
            with self._patient() as client:
                client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))
        finally:
            self.close()

    def close(self) -> None:
        """Say nothing more; without `finish` the SuperLink ends the run after a minute."""
        self._pause()
        self._aside.close()

    def _pause(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(HEARTBEAT_S)

    def _patient(self) -> RuntimeHttpClient:
        token = RuntimeTokenHttpInterceptor(self._token)
        return _client(
            self._address, self._ca, token, patience=Patience(self._address, self.is_over)
        )

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            try:
                if not self._aside.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    self.is_over.set()
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    self.is_over.set()
            except httpx.HTTPError:
                continue  # being started again; the run itself notices if it takes too long

    def _upload(self) -> None:
        while not self._closed.wait(LINES_S):
            self._send_lines()

    def _send_lines(self) -> None:
        with self._lock:
            lines = list(self._lines)
        if not lines:
            return
        node = Node(node_id=SUPERLINK_NODE_ID)
        request = PushLogsRequest(node=node, run_id=TaskIdentity.run_id, logs=lines)
        try:
            self._aside.PushLogs(request)
        except httpx.HTTPError:
            return
        with self._lock:
            del self._lines[: len(lines)]


class RunGrid(HttpGrid):
    """Flower's grid, which looks for replies twice a second and gives up once the run is over."""

    def __init__(self, address: str, ca: bytes, token: str, is_over: threading.Event) -> None:
        super().__init__(address, root_certificates=ca, token=token)
        self._is_over = is_over
        self._patience = Patience(address, is_over)
        self._retry_invoker = cast("Any", self._patience)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies that came within `timeout` seconds.

        Raises:
            NetworkError: the SuperLink is gone or was started again, or an operator stopped the
                run. Sites that come back too late after a restart would be missing in the round,
                and the model would be another one: the round is better held again.
        """
        self._patience.was_away = False
        sent = list(messages)
        deadline = None if timeout is None else time.monotonic() + timeout
        self.push_messages(sent)
        # Those that the SuperLink did not take included: it answers for them with an error.
        missing = {message.metadata.message_id: message.metadata.dst_node_id for message in sent}
        del sent, messages  # models: they are in the SuperLink now
        replies: list[Message] = []
        while missing:
            for reply in self.pull_messages(missing):
                node = missing.pop(reply.metadata.reply_to_message_id, None)
                if node is not None and reply.has_error():
                    # The SuperLink signs its own errors; they are about the one who was asked.
                    reply.metadata.__dict__["_src_node_id"] = node
                replies.append(reply)
            if self._patience.was_away:
                raise NetworkError(f"coordinator {self._addr}: was started again in mid-round")
            if not missing or (deadline is not None and time.monotonic() >= deadline):
                break
            if self._is_over.wait(POLL_S):
                raise _over(self._addr)
        return replies


class Patience:
    """Repeats a call while the SuperLink is away, up to `PATIENCE_S` seconds."""

    def __init__(self, address: str, is_over: threading.Event) -> None:
        self._address, self._is_over = address, is_over
        self.was_away = False
        """Whether a connection was refused since somebody last set this to False."""

    def invoke(self, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Return what `call` returns.

        Raises:
            NetworkError: it kept failing, or the SuperLink refuses the token.
        """
        end, wait_s = time.monotonic() + PATIENCE_S, POLL_S
        while True:
            try:
                return call(*args, **kwargs)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    self._is_over.set()
                    raise _over(self._address) from error
                if status not in _WORTH_A_RETRY or time.monotonic() > end:
                    raise network_error(self._address, error) from error
            except httpx.TransportError as error:
                self.was_away |= isinstance(error, httpx.ConnectError)
                if time.monotonic() > end or isinstance(error.__cause__, ssl.SSLError):
                    raise network_error(self._address, error) from error
            if self._is_over.wait(wait_s):
                raise _over(self._address)
            wait_s = min(2 * wait_s, 5.0)


def _over(address: str) -> NetworkError:
    return NetworkError(f"coordinator {address}: the run was stopped, or took over elsewhere")


def _client(
    address: str, ca: bytes, *interceptors: Any, patience: Patience | None = None
) -> RuntimeHttpClient:
    # Never Flower's own retries: a refused token makes them interrupt the whole process.
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=ca,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            *interceptors,
        ],
        retry_invoker=cast("Any", patience),
    )
