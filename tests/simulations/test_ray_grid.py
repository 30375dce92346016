"""The Ray engine with real processes: what it shares, and what happens when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Message, RecordDict

from fedward.common.errors import ConfigError
from fedward.common.records import PARAMETERS, array_record, arrays_of
from fedward.simulations.grids.inprocess import InProcessGrid
from fedward.simulations.grids.ray import RayGrid
from fedward.simulations.grids.start_ray import RayOptions

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


class Adder:
    """Answers a model w with w + node id; can sleep, raise, or die in the middle of its work."""

    def __init__(
        self, folder: Path, *, dies: int = 0, sleeps_s: float = 0.0, breaks: bool = False
    ) -> None:
        self.breaks = breaks
        self.folder = folder
        self.dies = dies
        self.sleeps_s = sleeps_s

    def handle(self, messages: Sequence[Message]) -> list[Message]:
        if self.breaks and any(message.metadata.dst_node_id == 3 for message in messages):
            raise ZeroDivisionError
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        deaths = len(list(self.folder.glob("death-*")))
        if node == 3 and deaths < self.dies:
            (self.folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if node == 3:
            time.sleep(self.sleeps_s)
        model = arrays_of(message.content)[PARAMETERS].numpy()
        return Message(
            RecordDict({"arrays": array_record({PARAMETERS: model + np.float32(node)})}),
            reply_to=message,
        )


def ask(grid: RayGrid | InProcessGrid, timeout: float | None = None) -> dict[int, float]:
    shared = array_record({PARAMETERS: np.zeros(10_000, np.float32)})
    messages = [
        Message(RecordDict({"arrays": shared}), dst_node_id=node, message_type="train")
        for node in range(1, 7)
    ]
    replies = grid.send_and_receive(messages, timeout=timeout)
    return {
        reply.metadata.src_node_id: float(arrays_of(reply.content)[PARAMETERS].numpy()[0])
        for reply in replies
        if reply.has_content()
    }


@pytest.fixture(scope="module")
def grid() -> Iterator[RayGrid]:
    grid = RayGrid(RayOptions(num_actors=2))
    yield grid
    grid.close()


NODES = list(range(1, 7))
ALL = {node: float(node) for node in NODES}


@pytest.mark.parametrize("stacked", [False, True])
def test_every_site_is_answered_once(grid: RayGrid, tmp_path: Path, stacked: bool) -> None:
    grid.prepare(partial(Adder, tmp_path), NODES, stacked=stacked)
    assert ask(grid) == ALL


def test_actors_do_not_yield_to_every_other_process(grid: RayGrid, tmp_path: Path) -> None:
    grid.prepare(partial(Adder, tmp_path), NODES, stacked=False)
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in grid.actor_pids()} == {here}


def test_both_engines_give_the_same_replies(grid: RayGrid, tmp_path: Path) -> None:
    alone = InProcessGrid()
    for engine in (grid, alone):
        engine.prepare(partial(Adder, tmp_path), NODES, stacked=False)
    assert ask(grid) == ask(alone)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_killed_actor_is_replaced_and_its_sites_are_tried_again(
    grid: RayGrid, tmp_path: Path, stacked: bool
) -> None:
    grid.prepare(partial(Adder, tmp_path, dies=1), NODES, stacked=stacked)
    before = set(grid.actor_pids())
    assert ask(grid) == ALL
    assert len(set(grid.actor_pids()) - before) == 1, "one of the two is new"
    assert ask(grid) == ALL, "and the next round finds it working"


def test_a_site_that_kills_its_actor_twice_is_reported_and_the_others_count(
    grid: RayGrid, tmp_path: Path
) -> None:
    grid.prepare(partial(Adder, tmp_path, dies=2), NODES, stacked=False)
    shared = array_record({PARAMETERS: np.zeros(3, np.float32)})
    messages = [
        Message(RecordDict({"arrays": shared}), dst_node_id=node, message_type="train")
        for node in NODES
    ]
    replies = grid.send_and_receive(messages)
    errors = {m.metadata.src_node_id: m.error.reason for m in replies if m.has_error()}
    assert list(errors) == [3]
    assert "died 2 times" in str(errors[3])
    assert len(replies) == 6


def test_a_worker_that_fails_is_reported_and_the_others_count(
    grid: RayGrid, tmp_path: Path
) -> None:
    grid.prepare(partial(Adder, tmp_path, breaks=True), NODES, stacked=False)
    assert ask(grid) == {node: value for node, value in ALL.items() if node != 3}


def test_the_deadline_ends_the_round_and_the_late_reply_is_never_seen(
    grid: RayGrid, tmp_path: Path
) -> None:
    grid.prepare(partial(Adder, tmp_path, sleeps_s=30.0), NODES, stacked=False)
    ask_started = time.monotonic()
    assert ask(grid, timeout=3.0) == {n: v for n, v in ALL.items() if n != 3}
    assert time.monotonic() - ask_started < 6.0
    grid.prepare(partial(Adder, tmp_path), NODES, stacked=False)
    assert ask(grid, timeout=30.0) == ALL


def test_the_inprocess_engine_refuses_a_deadline(tmp_path: Path) -> None:
    alone = InProcessGrid()
    alone.prepare(partial(Adder, tmp_path), NODES, stacked=False)
    with pytest.raises(ConfigError, match="deadline_s"):
        ask(alone, timeout=1.0)


SCRIPT = """
import sys, time
from functools import partial
from pathlib import Path
from tests.simulations.test_ray_grid import Adder, ask, NODES, ALL
from fedward.simulations.grids.ray import RayGrid
from fedward.simulations.grids.start_ray import RayOptions

grid = RayGrid(RayOptions(num_actors=1))
try:
    grid.prepare(partial(Adder, Path(sys.argv[1])), NODES, stacked=False)
    print("ready", ask(grid) == ALL, flush=True)
    while True:
        time.sleep(0.1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    grid.close()
"""


def start(tmp_path: Path) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )


def test_two_runs_on_one_machine_do_not_collide_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    runs = [start(tmp_path), start(tmp_path)]
    try:
        for run in runs:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready True\n"
        families = [psutil.Process(run.pid).children(recursive=True) for run in runs]
        assert all(families)
        for run in runs:
            run.send_signal(signal.SIGINT)
        for run in runs:
            assert "interrupted" in run.communicate(timeout=30)[0]
        _, alive = psutil.wait_procs([p for family in families for p in family], timeout=15)
        assert alive == []
    finally:
        for run in runs:
            run.kill()
