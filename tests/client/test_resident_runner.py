"""The runner at a real SuperNode Runtime API: each message is answered once, no bundle is run."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.supercore.constant import TaskType

from fedward.client.resident import runner, tasks
from fedward.client.resident.flower_runtime import SiteRuntime, SiteTask
from fedward.client.resident.tasks import Handler, do_task
from fedward.common.errors import ConfigError, NetworkError, RefusedError, TrustError
from tests.client.supernode import ACCEPTED, NODE, RuntimeApi, bundle

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeApi]:
    with RuntimeApi(tmp_path_factory.mktemp("api")) as running:
        yield running


def content(value: float = 1.0) -> RecordDict:
    arrays = ArrayRecord({"parameters": Array(np.full(5, value, np.float32))})
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"step": 3})})


def doubled(message: Message, run_config: Mapping[str, object]) -> RecordDict:
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    twice = Array(2 * arrays["parameters"].numpy())
    return RecordDict(
        {
            "arrays": ArrayRecord({"parameters": twice}),
            "metrics": MetricRecord({"num-examples": 7}),
            "report": ConfigRecord({"json": str(run_config["request"])}),
        }
    )


def done(api: RuntimeApi, handle: Handler = doubled, **offered: object) -> Message | None:
    """Return the reply after the runner has done one task."""
    message_id = api.offer(content(), **offered)  # type: ignore[arg-type]
    with api.runtime() as runtime:
        task = runtime.acquire()
        assert task is not None
        do_task(task, ACCEPTED, handle)
    return api.reply_to(message_id)


def stop(api: RuntimeApi) -> None:
    (running,) = api.state.get_tasks(statuses=[Status.RUNNING])
    assert api.state.finish_task(running.task_id, SubStatus.STOPPED, "")


def raising(error: Exception) -> Handler:
    def handle(message: Message, run_config: Mapping[str, object]) -> RecordDict:
        raise error

    return handle


def test_a_message_is_answered_with_the_handlers_records(api: RuntimeApi) -> None:
    reply = done(api)
    assert reply is not None
    arrays, report = reply.content["arrays"], reply.content["report"]
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(report, ConfigRecord)
    np.testing.assert_array_equal(arrays["parameters"].numpy(), np.full(5, 2, np.float32))
    assert report["json"] == "signed"
    assert reply.metadata.src_node_id == NODE
    with api.runtime() as runtime:
        assert runtime.acquire() is None  # the task is finished


def test_an_unknown_bundle_is_refused_and_nothing_of_it_runs(
    api: RuntimeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    code = f"open({str(tmp_path / 'marker')!r}, 'w')"
    reply = done(api, fab=bundle(a=code, sitecustomize=code, fedward=code))
    assert reply is not None
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert "not on this site's list" in str(reply.error.reason)
    assert list(tmp_path.iterdir()) == []  # neither a marker nor an unpacked bundle


def test_a_bundle_on_the_list_is_not_run_either(api: RuntimeApi, tmp_path: Path) -> None:
    evil = bundle(a=f"open({str(tmp_path / 'marker')!r}, 'w')")
    message_id = api.offer(content(), fab=evil)
    with api.runtime() as runtime:
        task = runtime.acquire()
        assert task is not None
        do_task(task, {hashlib.sha256(evil).hexdigest()}, doubled)
    reply = api.reply_to(message_id)
    assert reply is not None
    assert reply.has_content()
    assert list(tmp_path.iterdir()) == []


def test_an_agents_task_is_refused_with_an_answer(api: RuntimeApi) -> None:
    reply = done(api, kind=str(TaskType.AGENT_APP))
    assert reply is not None
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert str(TaskType.AGENT_APP) in str(reply.error.reason)


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("refused: epochs: 9, this site allows 2"),
        NetworkError("the site's worker did not answer within 60 s"),
    ],
)
def test_the_text_of_a_refusal_reaches_the_coordinator(api: RuntimeApi, error: Exception) -> None:
    reply = done(api, raising(error))
    assert reply is not None
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reply.error.reason == str(error)


def test_the_text_of_any_other_exception_stays_at_the_site(
    api: RuntimeApi, caplog: pytest.LogCaptureFixture
) -> None:
    reply = done(api, raising(ValueError("could not convert string to float: 'Smith'")))
    assert reply is not None
    assert "ValueError" in str(reply.error.reason)
    assert "Smith" not in str(reply.error.reason) + caplog.text
    entry = str(reply.error.reason).partition("entry ")[2].split()[0]
    assert f"entry {entry}: ValueError" in caplog.text


def test_a_reply_that_cannot_be_pushed_leaves_the_task_to_expire(
    api: RuntimeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(task: SiteTask, reply: Message) -> None:
        raise NetworkError("the reply cannot be pushed: ReadTimeout")

    monkeypatch.setattr(SiteTask, "push", refuse)
    reply = done(api)
    assert reply is None
    assert len(api.state.get_tasks(statuses=[Status.RUNNING])) == 1
    stop(api)  # the next test must not find it


def test_a_failed_task_does_not_hinder_the_next_one(api: RuntimeApi) -> None:
    assert done(api, raising(MemoryError())) is not None
    reply = done(api)
    assert reply is not None
    assert reply.has_content()


def test_the_reply_of_a_stopped_run_is_dropped_without_a_signal(
    api: RuntimeApi, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = api.offer(content())
    with api.runtime() as runtime:
        task = runtime.acquire()
        assert task is not None

        def stopped(message: Message, run_config: Mapping[str, object]) -> RecordDict:
            stop(api)
            return doubled(message, run_config)

        do_task(task, ACCEPTED, stopped)  # SIGINT would end this process
    assert api.reply_to(message_id) is None
    assert "cannot be pushed" in caplog.text or "dropped" in caplog.text


@pytest.mark.parametrize("secret", [b"", b"another secret of 32 bytes......"])
def test_a_stranger_without_the_secret_gets_no_task(api: RuntimeApi, secret: bytes) -> None:
    message_id = api.offer(content())
    with api.runtime(secret) as runtime, pytest.raises(TrustError, match="secret"):
        runtime.acquire()
    with api.runtime() as runtime:
        task = runtime.acquire()
        assert task is not None
        do_task(task, ACCEPTED, doubled)
    assert api.reply_to(message_id) is not None


def test_a_runner_without_the_secret_ends_and_says_why(api: RuntimeApi) -> None:
    with api.runtime(b"wrong") as runtime, pytest.raises(TrustError, match="same file"):
        tasks.run(runtime, ACCEPTED, doubled)


def test_the_runner_waits_for_a_supernode_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(BaseException):
        pass

    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    with RuntimeApi(tmp_path) as gone:
        address = gone.address
    monkeypatch.setattr(time, "sleep", pause)
    away = SiteRuntime(address, gone.certificate.read_bytes(), b"secret")
    with pytest.raises(Enough):
        tasks.run(away, ACCEPTED, doubled)
    away.close()
    assert caplog.text.count("ConnectError") >= 1
    assert len([line for line in caplog.messages if "entry" in line]) == 1  # not one per attempt


def test_the_heartbeat_keeps_a_long_task_alive(
    api: RuntimeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[bool] = []
    acknowledge: Callable[[int], bool] = api.state.acknowledge_task_heartbeat

    def counted(task_id: int) -> bool:
        beats.append(acknowledge(task_id))
        return beats[-1]

    monkeypatch.setattr(api.state, "acknowledge_task_heartbeat", counted)
    monkeypatch.setattr("fedward.client.resident.flower_runtime._HEARTBEAT_S", 0.05)
    assert done(api) is not None
    assert len(beats) > 2
    assert all(beats)


def test_another_version_of_flower_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"flwr 1\.42\.0 is installed.*1\.41\.0") as found:
        runner.check_version("1.42.0")
    assert "\n" not in str(found.value)
    runner.check_version(runner.PINNED)


def test_the_runner_has_neither_torch_nor_a_reader_of_patients() -> None:
    names = ["runner", "tasks", "asking", "flower_runtime", "wire", "door"]
    imports = "; ".join(f"import fedward.client.resident.{name}" for name in names)
    code = f"import sys; {imports}; print(sorted({{'torch', 'pandas'}} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
