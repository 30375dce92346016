"""The conductor with a real SuperLink and real processes, which are really killed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.common.keys import load_key
from fedward.common.request import RunRequest
from fedward.deploy.bundle import bundle
from fedward.deploy.submissions import Follower, find, stop, submissions
from fedward.server.link import runs
from fedward.server.link.runs import RunStatus, read_status
from tests.server.coordinator import Coordinator, conducting, free_port

pytestmark = [pytest.mark.network, pytest.mark.slow]

# The rounds of a run: each start leaves a line, and does what the request's name asks for.
PROGRAM = """
import os, sys, time
from pathlib import Path
from fedward.common.errors import QuorumLostError
from fedward.server.link import run_process

def rounds(request, here, folder):
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    starts = len((folder / "starts.txt").read_text().splitlines())
    here.on_line(f"start {starts} with {sorted(here.nodes)}")
    name = request.config["name"]
    if name == "quorum":
        raise QuorumLostError("too few sites answered")
    if name == "bug":
        raise ValueError("patient 4711")
    if name == "crashes" or (name == "killed" and starts == 1):
        os.kill(os.getpid(), 9)
    if name == "long":
        while not here.grid._is_over.wait(0.2):
            pass
        here.grid.get_node_ids()

def killed_once(task, kit, accept):
    marker = Path(__file__).with_name("killed")
    if '"early"' in task.request and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return check(task, kit, accept)

check, run_process.check = run_process.check, killed_once
sys.exit(run_process.main(rounds))
"""


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    coordinator = Coordinator(tmp_path_factory.mktemp("coordinator"), free_port())
    coordinator.provision("hospital-a", "hospital-b")
    coordinator.start()
    (coordinator.folder / "program.py").write_text(PROGRAM)
    yield coordinator
    coordinator.kill()


def submit(coordinator: Coordinator, name: str) -> tuple[str, int]:
    """Submit a run; return its request and its first Flower run."""
    text = coordinator.request(name=name)
    with coordinator.control() as control:
        return text, control.start_run(bundle(), text)


def request_of(text: str) -> RunRequest:
    fields = json.loads(text)["request"]
    fields.pop("kind")
    return RunRequest(**fields)


def folder_of(coordinator: Coordinator, text: str) -> Path | None:
    return runs.find_run(coordinator.state, request_of(text).hash)


def status_of(coordinator: Coordinator, text: str) -> RunStatus | None:
    folder = folder_of(coordinator, text)
    return None if folder is None else read_status(folder)


def ended(coordinator: Coordinator, text: str) -> RunStatus | None:
    """Return the run's status once it is over and the SuperLink knows."""
    status = status_of(coordinator, text)
    if status is None or status.state == "running":
        return None
    with coordinator.control() as control:
        run = control.run(status.flower_run)
        return status if run is not None and run.is_over else None


def starts(coordinator: Coordinator, text: str) -> list[int]:
    folder = folder_of(coordinator, text)
    file = None if folder is None else folder / "starts.txt"
    return [int(pid) for pid in file.read_text().split()] if file and file.exists() else []


def run_to_its_end(coordinator: Coordinator, text: str) -> RunStatus:
    with conducting(coordinator, coordinator.folder / "program.py") as until:
        status = until(lambda: ended(coordinator, text))
    assert isinstance(status, RunStatus)
    return status


def log_of(coordinator: Coordinator, run_id: int) -> str:
    with coordinator.control() as control:
        return "".join(control.logs(run_id, follow=True))


def test_a_run_is_checked_run_and_marked_as_finished(coordinator: Coordinator) -> None:
    text, run_id = submit(coordinator, "plain")
    status = run_to_its_end(coordinator, text)
    assert (status.state, status.operator, status.flower_run) == ("finished", "anna", run_id)
    assert "start 1 with ['hospital-a', 'hospital-b']" in log_of(coordinator, run_id)
    with coordinator.control() as control:
        assert find(control, coordinator.operator_kit, status.request[:8]).state == "finished"


def test_a_request_that_has_ended_is_never_run_again(coordinator: Coordinator) -> None:
    text, _ = submit(coordinator, "replayed")
    run_to_its_end(coordinator, text)
    with coordinator.control() as control:
        again = control.start_run(bundle(), text)
        with conducting(coordinator, coordinator.folder / "program.py") as until:
            over = until(lambda: (run := control.run(again)) and run.is_over and run)
        assert over.sub_status == "failed"
        assert "was run already" in over.details
        assert find(control, coordinator.operator_kit, str(again)).state == "finished"
    assert len(starts(coordinator, text)) == 1


def test_our_own_error_ends_the_run_with_its_exit_code(coordinator: Coordinator) -> None:
    text, run_id = submit(coordinator, "quorum")
    status = run_to_its_end(coordinator, text)
    assert (status.state, status.exit_code) == ("failed", 5)
    assert status.message == "too few sites answered"
    with coordinator.control() as control:
        assert find(control, coordinator.operator_kit, str(run_id)).outcome == (
            5,
            "too few sites answered",
        )


def test_the_text_of_a_bug_stays_at_the_coordinator(coordinator: Coordinator) -> None:
    text, run_id = submit(coordinator, "bug")
    status = run_to_its_end(coordinator, text)
    assert (status.state, status.exit_code, status.message) == ("failed", 70, "a bug: ValueError")
    with coordinator.control() as control:
        found = control.run(run_id)
    assert found is not None
    assert "4711" not in found.details + log_of(coordinator, run_id)


def test_a_killed_process_goes_on_in_the_same_folder(coordinator: Coordinator) -> None:
    text, run_id = submit(coordinator, "killed")
    status = run_to_its_end(coordinator, text)
    assert status.state == "finished"
    assert status.flower_run != run_id
    assert len(starts(coordinator, text)) == 2
    with coordinator.control() as control:
        (one,) = [
            found
            for found in submissions(control, coordinator.operator_kit)
            if found.request.hash == status.request
        ]
    assert [run.run_id for run in one.flower_runs] == [status.flower_run, run_id]


def test_a_process_that_is_killed_before_it_has_a_folder_is_started_again(
    coordinator: Coordinator,
) -> None:
    text, _ = submit(coordinator, "early")
    status = run_to_its_end(coordinator, text)
    assert status.state == "finished"
    assert len(starts(coordinator, text)) == 1


def test_a_run_that_never_gets_on_is_given_up(coordinator: Coordinator) -> None:
    text, _ = submit(coordinator, "crashes")
    status = run_to_its_end(coordinator, text)
    assert status.state == "failed"
    assert status.exit_code == 4
    assert len(starts(coordinator, text)) == runs.MAX_ATTEMPTS


def test_an_operators_stop_is_final(coordinator: Coordinator) -> None:
    text, run_id = submit(coordinator, "long")
    with conducting(coordinator, coordinator.folder / "program.py") as until:
        until(lambda: starts(coordinator, text))
        with coordinator.control() as control:
            assert stop(control, coordinator.operator_kit, str(run_id)).state == "stopped"
        status = until(lambda: ended(coordinator, text))
    assert status.state == "stopped"
    assert len(starts(coordinator, text)) == 1


def test_runs_go_on_after_the_conductor_was_stopped(coordinator: Coordinator) -> None:
    text, first = submit(coordinator, "long")
    program = coordinator.folder / "program.py"
    with conducting(coordinator, program) as until:
        until(lambda: starts(coordinator, text))
    status = status_of(coordinator, text)
    assert status is not None
    assert status.state == "running"
    with conducting(coordinator, program) as until:
        until(lambda: len(starts(coordinator, text)) == 2)
        status = status_of(coordinator, text)
        assert status is not None
        assert status.flower_run != first
        with coordinator.control() as control:
            control.stop_run(status.flower_run)
        assert until(lambda: ended(coordinator, text)).state == "stopped"


def test_runs_go_on_without_the_superlinks_database(coordinator: Coordinator) -> None:
    text, first = submit(coordinator, "long")
    with conducting(coordinator, coordinator.folder / "program.py") as until:
        (pid,) = until(lambda: starts(coordinator, text))
        coordinator.kill()
        for file in coordinator.state.glob("superlink.sqlite*"):
            file.unlink()
        os.kill(pid, signal.SIGKILL)
        coordinator.start()
        until(lambda: len(starts(coordinator, text)) == 2)
        status = status_of(coordinator, text)
        assert status is not None
        with coordinator.control() as control:
            assert control.run(first) is None
            control.stop_run(status.flower_run)
        until(lambda: ended(coordinator, text))


def test_an_operator_follows_a_run_across_an_interruption(coordinator: Coordinator) -> None:
    text, _ = submit(coordinator, "killed")
    said: list[str] = []
    key = load_key(coordinator.folder / "anna.key")
    name = request_of(text).hash
    follower = Follower(coordinator.operator_kit, key, name=name, say=said.append)
    with conducting(coordinator, coordinator.folder / "program.py") as until:
        until(lambda: ended(coordinator, text))
    assert follower.until_over().state == "finished"
    assert "".join(said).count("start 2") == 1
