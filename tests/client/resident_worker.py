"""A worker with a toy hospital, as a process of its own: `python resident_worker.py SOCKET [UID]`.

The group id says what the hospital does: `poison` kills the worker each time, `once` the first
time, `refuse` and `fail` raise.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict

from fedward.client.resident.worker import serve
from fedward.common.errors import RefusedError, SiteDataError

SECRET_VALUE = "Smith"


class Hospital:
    """Says who asked for what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, message: Message, run_config: Mapping[str, object]) -> RecordDict:
        meta = message.metadata
        began = self.folder / f"began-{meta.message_id}"
        with began.open("a") as file:
            file.write("x")
        if meta.group_id == "poison" or (meta.group_id == "once" and len(began.read_text()) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if meta.group_id == "refuse":
            raise RefusedError("epochs: the run asks for 9,\nthis site allows 2")
        if meta.group_id == "fail":
            raise ValueError(f"could not convert string to float: {SECRET_VALUE!r}")
        if meta.group_id == "data":
            raise SiteDataError("site.csv: column creatinine: 3 values out of range")
        if meta.group_id == "unsendable":
            return RecordDict({"config": ConfigRecord({"key": b"bytes"})})
        said = {
            "run": str(meta.run_id), "node": str(meta.dst_node_id), "round": meta.group_id,
            "id": meta.message_id, "type": meta.message_type,
            "request": str(run_config.get("request")),
        }  # fmt: skip
        return Message(RecordDict({"said": ConfigRecord(dict(said))}), reply_to=message).content


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    place = Path(sys.argv[1])
    allowed = {int(uid) for uid in sys.argv[2:]} or {os.geteuid()}
    serve(place, allowed, Hospital(place.parent))
