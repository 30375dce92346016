"""What the live page says about how a run gets on."""

import json
import os
import time
from pathlib import Path

import pytest

from fedward.common.errors import ConfigError
from fedward.server.live.source import RunSource, SiteSource
from fedward.server.live.state import State
from tests.server.live_stand import GrowingRun


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    return GrowingRun(tmp_path / "run", num_rounds=4)


def state(run: GrowingRun) -> State:
    source = RunSource(run.folder)
    return source.state("", source.snapshot(""))


def finish(folder: Path, stopped_by: str) -> None:
    (folder / "summary.json").write_text(json.dumps({"stopped_by": stopped_by}), encoding="utf-8")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_run_waits_runs_and_ends(run: GrowingRun) -> None:
    assert state(run).word == "waiting"
    run.round(1)
    found = state(run)
    assert (found.word, found.done, found.total) == ("running", 1, 4)
    assert "Round 2" in found.sentence
    assert found.since == "Last change under a second ago."
    for number in (2, 3, 4):
        run.round(number)
    assert "report follow" in state(run).sentence
    finish(run.folder, "rounds")
    assert (state(run).word, state(run).since) == ("finished", "")


@pytest.mark.parametrize(
    ("stopped_by", "words"),
    [("plateau", "stopped getting better"), ("saturation", "saturated"), ("quorum", "too few")],
)
def test_an_early_end_is_said_with_its_reason(run: GrowingRun, stopped_by: str, words: str) -> None:
    run.round(1)
    finish(run.folder, stopped_by)
    assert words in state(run).sentence


def test_a_resumed_run_is_not_called_finished_for_its_old_summary(run: GrowingRun) -> None:
    run.round(1)
    finish(run.folder, "rounds")
    age(run.folder / "summary.json", 100)
    run.round(2)
    assert state(run).word == "running"


def test_a_long_silence_is_said_and_a_short_one_is_not(run: GrowingRun) -> None:
    run.round(1)
    age(run.folder / "history.jsonl", 50)
    assert state(run).word == "running"
    assert state(run).since == "Last change 50 s ago."
    age(run.folder / "history.jsonl", 90)
    assert state(run).word == "stalled"


def test_what_the_coordinator_notes_of_a_run_is_shown(run: GrowingRun) -> None:
    run.round(1)
    status = {"state": "failed", "message": "quorum lost"}
    (run.folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    assert (state(run).word, state(run).sentence) == ("failed", "quorum lost")


def test_repetitions_are_parts_and_the_one_written_last_is_the_newest(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run")
    for seed in ("seed1", "seed2"):
        GrowingRun(run.folder / "repeats" / seed).round(1)
    age(run.folder / "repeats" / "seed2" / "history.jsonl", 10)
    source = RunSource(run.folder)
    assert source.parts() == ["seed2", "seed1"]
    assert source.snapshot("seed1").rounds.numbers == [1]
    with pytest.raises(ConfigError, match="no repetition"):
        source.snapshot("../../elsewhere")


def test_a_snapshot_is_taken_again_only_when_something_changed(run: GrowingRun) -> None:
    run.round(1)
    source = RunSource(run.folder)
    first = source.snapshot("")
    assert source.snapshot("") is first
    run.round(2)
    second = source.snapshot("")
    assert second.version != first.version
    assert source.snapshot("", first.version) is first
    assert second.monitoring is not None
    assert second.monitoring.maps["north"].keys() == {1, 2}


def test_maps_behind_a_link_are_not_read(run: GrowingRun, tmp_path: Path) -> None:
    run.round(1)
    elsewhere = GrowingRun(tmp_path / "elsewhere")
    elsewhere.round(1)
    link = run.folder / "cme" / "linked"
    link.symlink_to(elsewhere.folder / "cme" / "north", target_is_directory=True)
    found = RunSource(run.folder).snapshot("").monitoring
    assert found is not None
    assert found.maps.keys() == {"north", "south"}


def test_a_hospital_shows_the_maps_of_its_runs(tmp_path: Path) -> None:
    source = SiteSource(tmp_path / "cme", "north")
    assert source.parts() == [""]
    assert source.state("", source.snapshot("")).word == "waiting"
    for key in ("older", "newer"):
        run = GrowingRun(tmp_path / "made" / key)
        run.round(1)
        run.round(2)
        (tmp_path / "cme").mkdir(exist_ok=True)
        (run.folder / "cme").rename(tmp_path / "cme" / key)
    for path in (tmp_path / "cme" / "older", *(tmp_path / "cme" / "older").iterdir()):
        age(path, 50)
    assert source.parts() == ["older", "newer"]
    snapshot = source.snapshot("newer")
    assert snapshot.monitoring is not None
    assert snapshot.monitoring.layers == ["body.0.weight", "head.weight"]
    told = source.state("newer", snapshot)
    assert (told.word, told.done) == ("kept", 2)
