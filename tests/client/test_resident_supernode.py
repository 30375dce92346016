"""The retry rules that our SuperNode program gives to Flower's."""

import ssl
import threading
import time

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from fedward.client.resident import supernode


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation"),
        httpx.ReadError("[SSL] record layer failure (_ssl.c:2580)"),
        httpx.ProxyError("502 Bad Gateway"),
    ],
)
def test_a_broken_line_is_tried_again(error: Exception) -> None:
    invoker = supernode.patient_invoker()
    assert isinstance(error, invoker.recoverable_exceptions)
    assert not invoker.should_giveup(error)


def test_a_wrong_certificate_is_not_tried_again() -> None:
    cause = ssl.SSLCertVerificationError("certificate verify failed")
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.__cause__ = cause
    assert supernode.patient_invoker().should_giveup(error)


def instruction(number: int) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 7
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_message_id"] = f"m{number}"
    return message


def test_the_reply_to_a_lost_message_does_not_put_the_others_one_behind() -> None:
    objects = ObjectStoreFactory()
    state, store = NodeStateFactory(objectstore_factory=objects).state(), objects.store()
    lost, asked = instruction(1), instruction(2)
    state.store_message(asked)
    # What Flower itself answers when a token expires, after it gave the message up.
    stale = Message(Error(8, "expired"), reply_to=lost)
    start_client_internal._insert_message(stale, state, store)

    def answer() -> None:
        time.sleep(1.0)
        reply = Message(RecordDict(), reply_to=asked)
        start_client_internal._insert_message(reply, state, store)

    answering = threading.Thread(target=answer)
    answering.start()
    sent: list[str] = []

    def send(message: Message, tree: object, seconds: float) -> tuple[set[str], str]:
        sent.append(message.metadata.reply_to_message_id)
        return set(), ""

    state.record_message_processing_start("m1")
    supernode.push_until_answered(
        state=state, object_store=store, send=send, push_object=lambda *_: None
    )
    answering.join()
    assert sent == ["m1", "m2"]


def test_a_reply_whose_sender_died_on_the_way_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "NEVER_COMES_S", 0.5)
    objects = ObjectStoreFactory()
    state, store = NodeStateFactory(objectstore_factory=objects).state(), objects.store()
    asked = instruction(1)
    state.store_message(asked)
    reply = Message(RecordDict(), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    tree = get_object_tree(reply)
    store.preregister(1, tree)  # announced, and then the runner was killed
    state.store_message(reply)
    state.record_message_processing_start("m1")
    state.record_message_processing_end("m1")
    wanted = {one.object_id for one in iterate_object_tree(tree)}
    supernode.push_until_answered(
        state=state,
        object_store=store,
        send=lambda *_: (wanted, "session"),
        push_object=lambda *_: None,
    )
    assert not supernode._entries(state)


def test_flower_still_asks_for_its_invoker_by_the_name_that_is_replaced() -> None:
    # Looked up in the module at each connection: else the program would change nothing.
    assert supernode._PUSH in start_client_internal.start_client_internal.__code__.co_names
    names = fleet_http_connection.http_request_response.__wrapped__.__code__.co_names  # type: ignore[attr-defined]
    assert supernode._MAKER in names
