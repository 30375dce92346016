"""Worker and runner across the socket: deaths, strangers, and what is told of a failure."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedward.client.resident import door, wire
from fedward.client.resident.asking import ask, through_worker
from fedward.client.resident.tasks import do_task
from fedward.client.resident.worker import main
from fedward.common.errors import NetworkError, RefusedError
from tests.client import resident_worker
from tests.client.supernode import ACCEPTED, RuntimeApi

pytestmark = pytest.mark.network
PATIENCE_S = 30.0


class Worker:
    """A worker process that is started again whenever it dies, as the supervisor does."""

    def __init__(self, folder: Path, *uids: int) -> None:
        folder.mkdir(mode=0o770, exist_ok=True)
        self.path = folder / "worker.sock"
        self.log = folder.with_suffix(".log")
        self.deaths = 0
        self._argv = [sys.executable, resident_worker.__file__, str(self.path), *map(str, uids)]
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self.path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        while self._thread.is_alive():
            self.kill()
            self._thread.join(timeout=0.2)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    def _keep(self) -> None:
        with self.log.open("ab") as log:
            while not self._stopping:
                self._process = subprocess.Popen(self._argv, stderr=log)
                self._process.wait()
                self.deaths += 1


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("site") / "socket") as running:
        yield running


def question(group: str, name: str = "m") -> wire.Frame:
    records = RecordDict({"config": ConfigRecord({"step": 3})})
    config = {"request": "signed"}
    return wire.Frame("train", records, "", 11, 2**63 + 5, f"{name}-{group}", group, config)


def begun(worker: Worker, frame: wire.Frame) -> int:
    """Return how often the worker began to work on the frame's message."""
    return len((worker.path.parent / f"began-{frame.message_id}").read_text())


def test_the_hospital_gets_the_message_with_its_identity(worker: Worker) -> None:
    answer = ask(worker.path, question("7"), back_s=PATIENCE_S)
    assert answer.kind == wire.REPLY
    assert dict(answer.records["said"].items()) == {
        "run": "11", "node": str(2**63 + 5), "round": "7", "id": "m-7", "type": "train",
        "request": "signed",
    }  # fmt: skip


def test_a_refusal_is_told_in_full_on_one_line(worker: Worker) -> None:
    answer = ask(worker.path, question("refuse"), back_s=PATIENCE_S)
    assert answer.kind == wire.REFUSED
    assert answer.reason == "refused: epochs: the run asks for 9, this site allows 2"


@pytest.mark.parametrize(
    ("group", "error", "logged"),
    [("fail", "ValueError", "resident_worker.py"), ("data", "SiteDataError", "creatinine"),
     ("unsendable", "ValueError", "wire.py")],
)  # fmt: skip
def test_of_a_failure_only_its_kind_leaves_and_no_value_is_logged(
    worker: Worker, group: str, error: str, logged: str
) -> None:
    answer = ask(worker.path, question(group), back_s=PATIENCE_S)
    assert answer.kind == wire.FAILED
    entry = answer.reason.removesuffix(" of its log)").rpartition(" ")[2]
    expected = f"the site could not do it ({error}, entry {entry} of its log)"
    assert answer.reason == expected
    log = worker.log.read_text()
    line = next(line for line in log.splitlines() if f"entry {entry}" in line)
    assert logged in line
    assert resident_worker.SECRET_VALUE not in log


def test_a_worker_that_dies_on_a_message_gets_it_again(worker: Worker) -> None:
    frame, deaths = question("once"), worker.deaths
    assert ask(worker.path, frame, back_s=PATIENCE_S).kind == wire.REPLY
    assert begun(worker, frame) == 2
    assert worker.deaths == deaths + 1


def test_a_message_that_kills_the_worker_is_sent_twice_and_the_next_one_served(
    worker: Worker,
) -> None:
    frame = question("poison")
    with pytest.raises(NetworkError, match="ended 2 times"):
        ask(worker.path, frame, back_s=PATIENCE_S)
    assert begun(worker, frame) == 2
    assert ask(worker.path, question("8"), back_s=PATIENCE_S).kind == wire.REPLY


def test_an_absent_worker_is_waited_for_and_then_named(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(NetworkError, match="did not answer within 1 s"):
        ask(tmp_path / "worker.sock", question("1"), back_s=1)
    assert 1 <= time.monotonic() - start < 5


def test_a_worker_that_starts_late_is_found(tmp_path: Path) -> None:
    late = Worker(tmp_path / "socket")
    found: list[wire.Frame] = []

    def asking_early() -> None:
        found.append(ask(late.path, question("1"), back_s=PATIENCE_S))

    early = threading.Thread(target=asking_early)
    early.start()
    time.sleep(0.6)
    with late:
        early.join()
    assert [frame.kind for frame in found] == [wire.REPLY]


def test_garbage_and_probes_do_not_disturb_the_worker(worker: Worker) -> None:
    deaths = worker.deaths
    door.connect(worker.path, timeout_s=5).close()
    for content in (b"\xff" * 8, b"\0\0\0\2[]", b"GET / HTTP/1.1\r\n\r\n"):
        with door.connect(worker.path, timeout_s=5) as stranger:
            stranger.sendall(content)
            stranger.shutdown(socket.SHUT_WR)
            stranger.recv(1 << 16)
    assert ask(worker.path, question("9"), back_s=PATIENCE_S).kind == wire.REPLY
    assert worker.deaths == deaths


def test_a_dying_workers_socket_does_not_count_as_a_sent_message(tmp_path: Path) -> None:
    folder = tmp_path / "socket"
    folder.mkdir(mode=0o770)
    dying = door.listen(folder / "worker.sock")  # connections end up here, and are never accepted
    found: list[wire.Frame] = []
    asker = threading.Thread(
        target=lambda: found.append(
            ask(folder / "worker.sock", question("once"), back_s=PATIENCE_S)
        )
    )
    asker.start()
    time.sleep(0.3)
    dying.close()
    (folder / "worker.sock").unlink()
    late = Worker(folder)
    with late:
        asker.join()
    assert [frame.kind for frame in found] == [wire.REPLY]  # after a death of its own
    assert begun(late, question("once")) == 2


def test_an_answer_is_no_instruction(worker: Worker) -> None:
    assert ask(worker.path, wire.Frame(wire.REPLY), back_s=PATIENCE_S).kind == wire.FAILED


def test_a_user_who_may_not_ask_is_turned_away(tmp_path: Path) -> None:
    with Worker(tmp_path / "socket", os.geteuid() + 1) as strict:
        frame = question("1")
        with pytest.raises(NetworkError, match="did not answer"):
            ask(strict.path, frame, back_s=1)
        assert not (strict.path.parent / f"began-{frame.message_id}").exists()
        assert f"user {os.geteuid()} may not ask" in strict.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user: run as root")
def test_another_user_cannot_reach_the_socket(worker: Worker) -> None:
    code = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(worker.path)], capture_output=True, text=True, check=False
    )
    assert "PermissionError" in found.stderr


def test_a_runner_that_may_not_use_the_socket_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, *, timeout_s: float) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(door, "connect", forbidden)
    with pytest.raises(NetworkError, match="may not use"):
        ask(tmp_path / "worker.sock", question("1"), back_s=PATIENCE_S)


def test_refused_and_failed_reach_the_coordinator_as_error_replies(
    worker: Worker, tmp_path: Path
) -> None:
    handle = through_worker(worker.path, back_s=PATIENCE_S)
    with RuntimeApi(tmp_path) as api, api.runtime() as runtime:
        reasons = []
        for group in ("refuse", "fail", "poison", "1"):
            message_id = api.offer(question(group).records, group=group)
            task = runtime.acquire()
            assert task is not None
            do_task(task, ACCEPTED, handle)
            reply = api.reply_to(message_id)
            assert reply is not None
            if reply.has_error():
                assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                reasons.append(str(reply.error.reason))
    assert [reason.partition(":")[0].partition("(")[0].strip() for reason in reasons] == [
        "refused", "the site could not do it", "the site's worker ended 2 times on this message",
    ]  # fmt: skip
    assert reply is not None
    said = reply.content["said"]
    assert isinstance(said, ConfigRecord)
    assert said["id"] == message_id  # of the SuperLink: a resent message is recognised by it


def test_the_runner_refuses_without_asking_the_worker(tmp_path: Path) -> None:
    with RuntimeApi(tmp_path) as api, api.runtime() as runtime:
        message_id = api.offer(question("1").records)
        task = runtime.acquire()
        assert task is not None
        do_task(task, {hashlib.sha256(b"another").hexdigest()}, through_worker(tmp_path / "none"))
        reply = api.reply_to(message_id)
    assert reply is not None
    assert reply.error.code == ErrorCode.INVALID_FAB


def test_the_runner_as_a_process_serves_and_survives_a_wrong_start(
    worker: Worker, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    with RuntimeApi(tmp_path) as api:
        argv = [
            sys.executable, "-I", "-m", "fedward.client.resident.runner",
            "--runtime", api.address, "--ca", str(api.certificate), "--secret", str(secret),
            "--accept", *ACCEPTED, "--socket", str(worker.path),
        ]  # fmt: skip
        message_id = api.offer(question("1").records)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(argv, stderr=log)
        try:
            reply, deadline = None, time.monotonic() + PATIENCE_S
            while reply is None and time.monotonic() < deadline:
                time.sleep(0.2)
                reply = api.reply_to(message_id)
        finally:
            process.kill()
            process.wait()
        assert reply is not None, (tmp_path / "log").read_text()
        assert reply.has_content()
        secret.write_bytes(b"wrong")
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4
    assert "does not accept this runner's secret" in ended.stderr


def test_a_worker_without_its_site_ends_with_the_exit_code_of_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fedward.client.hospital")
    argv = ["--site", "none.yaml", "--kit", "none", "--socket", str(tmp_path / "s")]
    assert main(argv) == 2
    assert "none.yaml" in caplog.text


def test_a_refusal_by_the_worker_is_an_error_with_its_text(worker: Worker) -> None:
    with pytest.raises(RefusedError, match="this site allows 2"):
        _asked(worker, "refuse")


def _asked(worker: Worker, group: str) -> RecordDict:
    from flwr.app import Message, Metadata

    metadata = Metadata(1, "id", 1, 2, "", group, time.time(), 60.0, "train")
    message = Message(metadata=metadata, content=RecordDict())  # type: ignore[call-overload] # "for internal use only"
    return through_worker(worker.path, back_s=PATIENCE_S)(message, {})
