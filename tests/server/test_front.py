"""Who may say what to the front of a real SuperLink, and who may not."""

import dataclasses
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest, StopRunRequest
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError

from fedward.common.errors import NetworkError, TrustError
from fedward.common.keys import fingerprint, load_key
from fedward.common.operator_auth import Signer
from fedward.deploy.bundle import bundle
from fedward.server.link import door
from fedward.server.link.flower_control import Control
from fedward.server.link.flower_runtime import Runtime, TaskLink
from fedward.server.link.superlink import secret_file
from tests.server.coordinator import wait_until
from tests.server.front_stand import (
    LIST,
    PROTOBUF,
    STOP,
    Stand,
    activate,
    active,
    standing,
    status_of,
)

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("front")) as stand:
        yield stand


def test_a_site_of_the_roster_is_activated_and_asks_for_work(stand: Stand) -> None:
    with active(stand, "hospital-a") as (client, node):
        with stand.behind.control() as control:
            names = {one.node_id: one.name for one in control.nodes() if one.is_online}
        assert names == {node: "hospital-a"}
        answer = client.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
        assert list(answer.messages_list) == []


def test_a_piece_of_a_model_passes_and_the_superlink_judges_it(stand: Stand) -> None:
    with stand.control() as control:
        run_id = control.start_run(bundle(), stand.public.request())
    with active(stand, "hospital-b") as (client, node):
        piece = PushObjectRequest(
            node=Node(node_id=node),
            run_id=run_id,
            object_id="0" * 64,
            object_content=bytes(5 << 20),
        )
        with pytest.raises(httpx.HTTPStatusError, match="push-object") as error:
            client.PushObject(piece)
    said = FlowerError.from_json(error.value.response.text)
    assert said is not None
    assert said.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED  # it was not taken over yet
    with stand.control() as control:
        assert control.stop_run(run_id)


def test_a_strangers_key_reaches_nothing(stand: Stand) -> None:
    with (
        stand.fleet("stranger") as client,
        pytest.raises(httpx.HTTPStatusError) as error,
    ):
        activate(stand, "stranger", client)
    assert status_of(error) == 401
    assert "not the key of a site of roster" in stand.log.read_text()


def test_a_stranger_with_a_sites_public_key_still_lacks_its_signature(stand: Stand) -> None:
    with stand.client() as client:
        headers = {"flwr-public-key": next(iter(door._node_keys(stand.kit.roster)))}
        answer = client.post("/v1/fleet/pull-messages", headers=PROTOBUF | headers)
    assert answer.status_code in {401, 422}


def test_nobody_registers_or_unregisters_by_themselves(stand: Stand) -> None:
    with stand.fleet("hospital-a") as client:
        key = stand.public_bytes("stranger")
        with pytest.raises(httpx.HTTPStatusError) as error:
            client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
        assert status_of(error) == 404
        with pytest.raises(httpx.HTTPStatusError) as error:
            client.UnregisterNode(UnregisterNodeFleetRequest(node_id=1))
        assert status_of(error) == 404


def test_a_revoked_site_is_out_without_a_restart(stand: Stand) -> None:
    revoked = fingerprint(stand.kit.roster.site("hospital-a").public_key)
    with active(stand, "hospital-a") as (client, node):
        with (
            stand.roster(revoked=(revoked,)),
            pytest.raises(httpx.HTTPStatusError) as error,
        ):
            client.PullMessages(PullMessagesRequest(node=Node(node_id=node)))
        assert status_of(error) == 401
        client.PullMessages(PullMessagesRequest(node=Node(node_id=node)))


def test_an_operator_starts_lists_follows_and_stops_runs(stand: Stand) -> None:
    text = stand.public.request()
    with stand.control() as control:
        run_id = control.start_run(bundle(), text)
        assert [run.request for run in control.runs() if run.run_id == run_id] == [text]
        secret = secret_file(stand.behind.state).read_bytes()
        runtime = Runtime(stand.behind.address, stand.ca, secret)
        task = runtime.acquire()
        runtime.close()
        assert task is not None
        link = TaskLink(stand.behind.address, stand.ca, task.token)
        link.start()
        link.say("round 1")
        heard: list[str] = []

        def follow() -> None:
            with stand.control() as another:
                heard.extend(another.logs(run_id, follow=True))

        ended = threading.Thread(target=follow)
        ended.start()
        wait_until(lambda: "round 1\n" in "".join(heard))
        assert ended.is_alive()  # it waits for more
        assert control.stop_run(run_id)
        ended.join(60)
        assert not ended.is_alive()
        link.close()
        found = control.run(run_id)
        assert found is not None
        assert found.was_stopped
    assert "start-run by anna, from 127.0.0.1" in stand.log.read_text()
    assert "stop-run by anna, from 127.0.0.1" in stand.log.read_text()


def test_control_without_a_signature_is_refused(stand: Stand) -> None:
    with Control(stand.public.address, stand.ca) as control:
        for call in (
            control.runs,
            lambda: control.start_run(bundle(), stand.public.request()),
            lambda: control.stop_run(1),
            lambda: list(control.logs(1)),
        ):
            with pytest.raises(TrustError, match="--key"):
                call()


def test_a_key_that_is_not_the_operators_is_refused(stand: Stand) -> None:
    key = load_key(stand.public.folder / "stranger.key")
    for signer in (dataclasses.replace(stand.signer(), key=key), Signer("eve", "Test", key)):
        with (
            Control(stand.public.address, stand.ca, signer) as control,
            pytest.raises(TrustError, match="not signed"),
        ):
            control.runs()


def test_a_revoked_operator_is_out_without_a_restart(stand: Stand) -> None:
    revoked = fingerprint(stand.kit.roster.operators[0].public_key)
    with stand.control() as control:
        with stand.roster(revoked=(revoked,)), pytest.raises(TrustError, match="roster 99"):
            control.runs()
        control.runs()


def test_with_a_roster_that_cannot_be_believed_nobody_comes_in(stand: Stand) -> None:
    kit = stand.kit
    before = kit.roster_file.read_text()
    kit.roster_file.write_text(before.replace("anna", "eve!"))
    try:
        with stand.control() as control, pytest.raises(NetworkError, match="roster"):
            control.runs()
        with stand.fleet("hospital-a") as client, pytest.raises(httpx.HTTPStatusError) as error:
            activate(stand, "hospital-a", client)
        assert status_of(error) == 503
    finally:
        kit.roster_file.write_text(before)
    with stand.control() as control:
        control.runs()


def test_a_recorded_call_cannot_be_sent_again_or_changed(stand: Stand) -> None:
    body = ListRunsRequest(limit=1).SerializeToString()
    headers = stand.signer().headers(LIST, body)
    assert stand.post(LIST, body, headers) == 200
    assert stand.post(LIST, body, headers) == 403
    headers = stand.signer().headers(LIST, body)
    assert stand.post(LIST, ListRunsRequest(limit=2).SerializeToString(), headers) == 403
    assert stand.post(STOP, StopRunRequest(run_id=1).SerializeToString(), headers) == 403
    assert stand.post(LIST, body, stand.signer(consortium="Other").headers(LIST, body)) == 403
    assert stand.post(LIST, body, headers) == 200  # the true one still counts, once


def test_a_call_of_another_hour_is_refused(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Late":
            return super().now(tz) - datetime.timedelta(seconds=400)

    monkeypatch.setattr("fedward.common.operator_auth.datetime.datetime", Late)
    with stand.control() as control, pytest.raises(TrustError, match="set the clock"):
        control.runs()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/runtime/acquire-task",
        "/v1/runtime/push-task-output",
        "/v1/control/register-node",
        "/v1/control/unregister-node",
        "/v1/control/list-nodes",
        "/v1/control/pull-artifacts",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../runtime/acquire-task",
        "/v1/fleet/%2e%2e/runtime/acquire-task",
        "/v1/fleet/pull-messages/../../runtime/acquire-task",
        "/v1/%66leet/pull-messages",
        "//v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages?x=1",
        "/v1/control/list-runs?x=1",
        "/V1/CONTROL/LIST-RUNS",
    ],
)
def test_nothing_else_is_there_even_for_an_operator(stand: Stand, path: str) -> None:
    context = ssl.create_default_context(cafile=str(stand.kit.ca_file))
    signed = stand.signer().headers(path.partition("?")[0], b"")
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in signed.items()]
    raw = socket.create_connection(("127.0.0.1", stand.public.port), timeout=20)
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 404")


def test_only_a_look_at_its_health_needs_no_name(stand: Stand) -> None:
    with stand.client() as client:
        assert client.get("/health").status_code == 200
        assert client.get(LIST).status_code == 404
        assert client.get("/").headers["date"]
