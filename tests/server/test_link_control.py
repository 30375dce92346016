"""Control API, registrations and the Runtime API of a real SuperLink."""

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedward.common.errors import ConfigError, NetworkError, RefusedError, TrustError
from fedward.common.keys import make_key
from fedward.deploy.bundle import bundle, bundle_hash
from fedward.server.link.conductor import reconcile
from fedward.server.link.flower_control import Control
from fedward.server.link.flower_runtime import Runtime, Task, TaskLink
from fedward.server.link.run_process import check
from fedward.server.link.superlink import (
    secret_file,
    split_address,
    superlink_command,
    superlink_port,
    wait_healthy,
)
from tests.server.coordinator import Coordinator, free_port, wait_until

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    coordinator = Coordinator(tmp_path_factory.mktemp("coordinator"), free_port())
    coordinator.provision("hospital-a", "hospital-b")
    coordinator.start()
    yield coordinator
    coordinator.kill()


@pytest.fixture
def control(superlink: Coordinator) -> Iterator[Control]:
    with superlink.control() as control:
        for run in control.runs():
            control.stop_run(run.run_id)
        yield control


def acquire(superlink: Coordinator, secret: bytes | None = None) -> Task:
    """Take over the one waiting run."""
    own = secret_file(superlink.state).read_bytes()
    runtime = Runtime(superlink.address, superlink.ca, own if secret is None else secret)
    try:
        task = runtime.acquire()
    finally:
        runtime.close()
    assert task is not None
    return task


def test_the_roster_decides_who_is_registered(superlink: Coordinator, control: Control) -> None:
    stranger = make_key(superlink.folder / "stranger.key")
    control.register(stranger, "stranger")
    lines = reconcile(control, superlink.kit.roster)
    registered = {node.name: node for node in control.nodes() if node.is_registered}
    assert set(registered) == {"hospital-a", "hospital-b"}
    assert "node stranger: unregistered, because it is not in the roster" in lines
    roster = {site.name: site.public_key for site in superlink.kit.roster.sites}
    assert {name: node.public_key for name, node in registered.items()} == roster
    assert not any(node.is_online for node in registered.values())


def test_a_second_look_at_the_roster_changes_nothing(
    superlink: Coordinator, control: Control
) -> None:
    reconcile(control, superlink.kit.roster)
    assert reconcile(control, superlink.kit.roster) == []


def test_a_run_carries_its_signed_request(superlink: Coordinator, control: Control) -> None:
    text = superlink.request()
    run_id = control.start_run(bundle(), text)
    found = control.run(run_id)
    assert found is not None
    assert (found.request, found.status) == (text, "pending")
    assert run_id in {run.run_id for run in control.runs()}


def test_a_stopped_run_is_over_for_good(superlink: Coordinator, control: Control) -> None:
    run_id = control.start_run(bundle(), superlink.request())
    assert control.stop_run(run_id)
    assert not control.stop_run(run_id)
    found = control.run(run_id)
    assert found is not None
    assert found.was_stopped


def test_an_unknown_run_is_none(control: Control) -> None:
    assert control.run(12345) is None
    assert not control.stop_run(12345)


def test_a_certificate_of_another_authority_is_a_matter_of_trust(
    superlink: Coordinator, tmp_path: Path
) -> None:
    other = Coordinator(tmp_path, superlink.port)
    other.provision("hospital-a")
    with (
        Control(superlink.address, other.ca) as control,
        pytest.raises(TrustError, match=r"ca\.crt"),
    ):
        control.runs()
    with pytest.raises(TrustError):
        wait_healthy(superlink.address, other.ca, within_s=30)


def test_no_coordinator_is_a_matter_of_the_network(superlink: Coordinator) -> None:
    with (
        Control(f"127.0.0.1:{free_port()}", superlink.ca) as control,
        pytest.raises(NetworkError, match="fedward server"),
    ):
        control.runs()


def test_only_who_has_the_secret_takes_over_runs(superlink: Coordinator, control: Control) -> None:
    control.start_run(bundle(), superlink.request())
    with pytest.raises(NetworkError, match="refuses"):
        acquire(superlink, b"guessed" * 5)
    task = acquire(superlink)
    assert task.is_run
    assert task.token not in repr(task)


@pytest.fixture
def link(superlink: Coordinator, control: Control) -> Iterator[tuple[TaskLink, str]]:
    text = superlink.request()
    control.start_run(bundle(), text)
    task = acquire(superlink)
    link = TaskLink(superlink.address, superlink.ca, task.token)
    yield link, text
    link.close()


def test_a_run_gets_its_request_and_the_bytes_of_the_bundle(
    link: tuple[TaskLink, str], control: Control
) -> None:
    task = link[0].start()
    assert task.request == link[1]
    assert hashlib.sha256(task.bundle).hexdigest() == bundle_hash()
    link[0].say("round 1")
    link[0].say("round 2")
    link[0].finish(completed=True)
    found = control.run(task.run_id)
    assert found is not None
    assert found.sub_status == "completed"
    assert "".join(control.logs(task.run_id, follow=True)) == "round 1\nround 2\n"


def test_a_failed_run_says_why(link: tuple[TaskLink, str], control: Control) -> None:
    task = link[0].start()
    link[0].finish(completed=False, details="exit 5: too few sites")
    found = control.run(task.run_id)
    assert found is not None
    assert (found.sub_status, found.details) == ("failed", "exit 5: too few sites")


def test_the_grid_gives_up_waiting_at_the_deadline(
    superlink: Coordinator, link: tuple[TaskLink, str], control: Control
) -> None:
    reconcile(control, superlink.kit.roster)
    node = next(node.node_id for node in control.nodes() if node.is_registered)
    task = link[0].start()
    grid = link[0].grid(task)
    message = Message(RecordDict({"config": ConfigRecord()}), node, "train", group_id="1")
    begin = time.monotonic()
    replies = grid.send_and_receive([message], timeout=1.5)
    assert [reply for reply in replies if not reply.has_error()] == []
    assert time.monotonic() - begin < 6
    grid.close()
    link[0].finish(completed=True)


def test_an_error_for_an_unknown_site_is_about_that_site(
    superlink: Coordinator, link: tuple[TaskLink, str], control: Control
) -> None:
    reconcile(control, superlink.kit.roster)
    node = next(node.node_id for node in control.nodes() if node.is_registered)
    task = link[0].start()
    grid = link[0].grid(task)
    message = Message(RecordDict({"config": ConfigRecord()}), node, "train", group_id="1")
    (reply,) = grid.send_and_receive([message], timeout=30)
    assert reply.has_error()
    assert reply.metadata.src_node_id == node
    grid.close()
    link[0].finish(completed=True)


def test_a_stop_by_the_operator_ends_the_wait_for_replies(
    superlink: Coordinator, link: tuple[TaskLink, str], control: Control
) -> None:
    reconcile(control, superlink.kit.roster)
    task = link[0].start()
    grid = link[0].grid(task)
    control.stop_run(task.run_id)
    node = next(node.node_id for node in control.nodes() if node.is_registered)
    message = Message(RecordDict({"config": ConfigRecord()}), node, "train", group_id="1")
    with pytest.raises(NetworkError, match="stopped"):
        grid.send_and_receive([message], timeout=60)
    assert link[0].is_over.is_set()
    grid.close()


def test_another_bundle_is_refused_before_the_request_is_read(
    superlink: Coordinator, link: tuple[TaskLink, str]
) -> None:
    task = link[0].start()
    with pytest.raises(RefusedError, match="version of fedward"):
        check(task, superlink.kit, "0" * 64)
    assert check(task, superlink.kit, bundle_hash()).operator == "anna"
    link[0].finish(completed=True)


def test_a_request_that_no_operator_signed_is_refused(
    superlink: Coordinator, control: Control
) -> None:
    changed = superlink.request(name="toy").replace('"toy"', '"evil"')
    control.start_run(bundle(), changed)
    task = acquire(superlink)
    link = TaskLink(superlink.address, superlink.ca, task.token)
    with pytest.raises(TrustError):
        check(link.start(), superlink.kit, bundle_hash())
    link.finish(completed=False)


def test_a_site_that_was_unregistered_behind_our_back_is_named(
    superlink: Coordinator, control: Control
) -> None:
    reconcile(control, superlink.kit.roster)
    node = next(node for node in control.nodes() if node.name == "hospital-b")
    control.unregister(node.node_id)
    (line,) = reconcile(control, superlink.kit.roster)
    assert line.startswith("site hospital-b was unregistered")


def test_no_secret_is_on_the_command_line(superlink: Coordinator) -> None:
    argv, env = superlink_command(superlink.kit, superlink.state, "0.0.0.0:8443")
    secret = secret_file(superlink.state).read_bytes().hex()
    assert secret not in " ".join(argv) + str(env)
    assert secret_file(superlink.state).stat().st_mode & 0o077 == 0


def test_the_superlink_keeps_its_port_until_somebody_else_has_it(tmp_path: Path) -> None:
    port = superlink_port(tmp_path)
    assert superlink_port(tmp_path) == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert superlink_port(tmp_path) != port
    (tmp_path / "superlink.port").write_text("none")
    assert 1024 < superlink_port(tmp_path) < 32768


@pytest.mark.parametrize("address", ["8443", "host:", "host:99999", ":80", "host:x"])
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        split_address(address)


def test_runs_survive_a_superlink_that_is_started_again(superlink: Coordinator) -> None:
    with superlink.control() as control:
        for run in control.runs():
            control.stop_run(run.run_id)
        text = superlink.request()
        control.start_run(bundle(), text)
    task = acquire(superlink)
    link = TaskLink(superlink.address, superlink.ca, task.token)
    started = link.start()
    superlink.kill()
    superlink.start()
    link.say("still here")
    link.finish(completed=True)
    with superlink.control() as control:
        found = wait_until(lambda: control.run(started.run_id))
        assert found.sub_status == "completed"
