"""A registered site that lies: it trains honestly, passes no runner, and sends what it likes.

    python -m tests.faults.hostile_site --site site.yaml --kit KIT --port P --told FILE

    ... --leak rows.csv

It stands where runner and worker stand, with the secret that they have, so that nothing at the
site checks what it sends. In every round it tells another lie and writes down which. With `--leak`
it does not lie but adds rows of its patients to each reply, and asks a foreign name server.
"""

import argparse
import base64
import gzip
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedward.client.hospital import open_hospital
from fedward.client.resident.commands import prepare_state
from fedward.client.resident.flower_runtime import SiteRuntime, SiteTask, TaskInput
from fedward.common.config.site import load_site_config
from fedward.common.errors import NetworkError
from fedward.common.kit import load_kit
from fedward.common.records import read_binding
from tests.faults.lies import DUPLICATE, LIES

Answer = Callable[[TaskInput], RecordDict]
FOREIGN_NAME_SERVER = ("192.0.2.53", 53)


def main() -> None:
    """Answer until killed."""
    parser = argparse.ArgumentParser()
    for name in ("--site", "--kit", "--told"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--leak", type=Path)
    args = parser.parse_args()
    shared = prepare_state(load_site_config(args.site), load_kit(args.kit, "site"))
    runtime = SiteRuntime(
        f"127.0.0.1:{args.port}", shared.certificate.read_bytes(), shared.secret.read_bytes()
    )
    hospital = open_hospital(args.site, args.kit)
    honest = lambda asked: hospital.answer(asked.message, asked.run_config)  # noqa: E731
    liar = Liar(honest, args.told) if args.leak is None else Leak(honest, args.leak)
    print("hostile site ready", flush=True)  # noqa: T201 - a program of its own
    while True:
        try:
            task = runtime.acquire()
        except NetworkError:
            task = None
        if task is None:
            time.sleep(0.3)
            continue
        liar.do(task)


class Liar:
    """Tells one lie after the other; each training reply is one."""

    def __init__(self, answer: Answer, told: Path) -> None:
        self._answer = answer
        self._told = told
        self._left = [*LIES, DUPLICATE]
        self._previous: RecordDict | None = None

    def do(self, task: SiteTask) -> None:
        """Do one task."""
        with task:
            asked = task.pull()
            message = asked.message
            TaskIdentity.task_id, TaskIdentity.run_id = 0, message.metadata.run_id
            TaskIdentity.node_id = message.metadata.dst_node_id
            content = self._answer(asked)
            name = ""
            if message.metadata.message_type == MessageType.TRAIN and self._previous is None:
                self._previous = content  # the first round is honest: the next may repeat it
            elif message.metadata.message_type == MessageType.TRAIN and self._left:
                name, honest = self._left.pop(0), content
                if name in LIES:
                    content = LIES[name](honest, self._previous)
                self._previous = honest
                self._write_down(name, message)
            task.push(Message(content, reply_to=message))
            if name == DUPLICATE:
                self._push_again(task, Message(content, reply_to=message))
            task.finish("")

    def _push_again(self, task: SiteTask, reply: Message) -> None:
        try:
            task.push(reply)
        except Exception as error:  # noqa: BLE001 - a refusal is one of the good outcomes
            print(f"second push: {type(error).__name__}", flush=True)  # noqa: T201

    def _write_down(self, name: str, message: Message) -> None:
        line = {"round": read_binding(message).round_number, "lie": name}
        with self._told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Leak:
    """Sends what a site without a gate could send."""

    def __init__(self, answer: Answer, rows: Path) -> None:
        self._answer = answer
        self._rows = rows

    def do(self, task: SiteTask) -> None:
        """Do one task."""
        with task, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talk:
            asked = task.pull()
            TaskIdentity.task_id, TaskIdentity.run_id = 0, asked.message.metadata.run_id
            TaskIdentity.node_id = asked.message.metadata.dst_node_id
            content = dict(self._answer(asked).items())
            hidden = base64.b64encode(gzip.compress(self._rows.read_bytes())).decode()
            leaky = RecordDict({**content, "debug": ConfigRecord({"notes": hidden})})
            task.push(Message(leaky, reply_to=asked.message))
            task.finish("")
            talk.sendto(b"?", FOREIGN_NAME_SERVER)


if __name__ == "__main__":
    main()
