"""A real SuperNode Runtime API on the loopback address, fed with messages as its own loop does."""

import hashlib
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from flwr.app import Message, Metadata, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _pull_and_store_message

from fedward.client.resident.flower_runtime import SiteRuntime
from fedward.common.keys import loopback_certificate

SECRET = b"s" * 32
NODE = 2**63 + 5
_numbers = count(1)


def bundle(**files: str) -> bytes:
    """Return a Flower bundle, with further files if given."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(
            "pyproject.toml",
            '[project]\nname = "fedward-app"\nversion = "1"\n[tool.flwr.app]\npublisher = "x"\n'
            '[tool.flwr.app.components]\nserverapp = "a:app"\nclientapp = "a:app"\n'
            '[tool.flwr.app.config]\nrequest = ""\n',
        )
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return content.getvalue()


HONEST = bundle()
ACCEPTED = {hashlib.sha256(HONEST).hexdigest()}


class RuntimeApi:
    """The SuperNode's state behind its own web application, with TLS and SuperExec secret."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = loopback_certificate(folder)
        self._objects = ObjectStoreFactory()
        factory = NodeStateFactory(objectstore_factory=self._objects)
        self.state = factory.state()
        self.state.set_node_id(NODE)
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(factory, SECRET),
                host="127.0.0.1",
                port=0,
                ssl_certfile=str(self.certificate),
                ssl_keyfile=str(key),
                log_level="warning",
                ws="none",  # its protocol for web sockets warns of its own age
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the Runtime API did not start"
            time.sleep(0.02)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)

    @property
    def address(self) -> str:
        (listening,) = self._server.servers
        host, port = listening.sockets[0].getsockname()
        return f"{host}:{port}"

    @contextmanager
    def runtime(self, secret: bytes = SECRET) -> Iterator[SiteRuntime]:
        runtime = SiteRuntime(self.address, self.certificate.read_bytes(), secret)
        yield runtime
        runtime.close()

    def offer(
        self,
        content: RecordDict,
        *,
        fab: bytes = HONEST,
        kind: str = str(TaskType.SERVER_APP),
        group: str = "1",
        request: str = "signed",
    ) -> str:
        """Let the SuperNode receive a message of a new run, and return the message's id."""
        run = Run.create_empty(next(_numbers))
        run.fab_hash = hashlib.sha256(fab).hexdigest()
        run.override_config = {"request": request}
        run.primary_task_type, run.series_id = kind, run.run_id
        message = Message(  # type: ignore[call-overload] # "for internal use only"
            metadata=Metadata(run.run_id, "", 1, NODE, "", group, time.time(), 3600.0, "train"),
            content=content,
        )
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(message), get_all_nested_objects(message)
            deflated = {name: found.deflate() for name, found in objects.items()}
            arrived = _pull_and_store_message(
                state=self.state,
                object_store=self._objects.store(),
                node_config={},
                receive=lambda: (message, tree),
                get_run=lambda _: run,
                get_fab=lambda *_: Fab(run.fab_hash, fab, {}),
                pull_object=lambda _, name: deflated[name],
                confirm_message_received=lambda *_: None,
                trusted_entities=None,
            )
        assert arrived == run.run_id
        return str(message.metadata.message_id)

    def reply_to(self, message_id: str) -> Message | None:
        """Return the reply that the SuperNode would send to the coordinator, if there is one."""
        replies = self.state.get_messages_legacy(is_reply=True)
        mine = [m for m in replies if m.metadata.reply_to_message_id == message_id]
        if not mine or mine[0].has_error():
            return mine[0] if mine else None
        store = self._objects.store()
        tree = store.get_object_tree(mine[0].metadata.message_id)
        if not all(store.get(part.object_id) for part in iterate_object_tree(tree)):
            return None  # the runner is still sending its parts
        return pull_and_inflate_object_from_tree(
            tree,
            lambda name: store.get(name) or b"",
            lambda _: None,
            return_type=Message,
        )
