"""Reading a history while it is written."""

import json
from pathlib import Path

import pytest

from fedward.server.history import Entry, History
from fedward.server.live.follow import HistoryFile


def entries(*numbers: int, seconds: float = 0.5) -> list[Entry]:
    return [Entry(number, "train", seconds=seconds) for number in numbers]


def rounds(file: HistoryFile) -> list[int]:
    return [line["round"] for line in file.lines]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    file = HistoryFile(tmp_path / "history.jsonl")
    assert not file.refresh()
    history.add(entries(1, 2))
    assert file.refresh()
    first = file.lines[0]
    assert not file.refresh()
    history.add(entries(3))
    assert file.refresh()
    assert rounds(file) == [1, 2, 3]
    assert file.lines[0] is first


def test_a_cut_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    whole = Entry(2, "train", "north").to_json()
    path.write_text(f"{Entry(1, 'train').to_json()}\n{whole[:20]}", encoding="utf-8")
    file = HistoryFile(path)
    file.refresh()
    assert rounds(file) == [1]
    with path.open("a", encoding="utf-8") as more:
        more.write(f"{whole[20:]}\n")
    assert file.refresh()
    assert rounds(file) == [1, 2]
    assert file.num_unreadable == 0


def test_a_history_that_a_resumed_run_cut_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    file = HistoryFile(path)
    History(path).add(entries(1, 2, 3, 4))
    file.refresh()
    resumed = History(path)
    resumed.forget_after(2)
    assert file.refresh()
    assert rounds(file) == [1, 2]
    resumed.add(entries(3))
    file.refresh()
    assert rounds(file) == [1, 2, 3]


def test_one_that_was_cut_and_outgrew_its_old_length_in_between_is_read_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    file = HistoryFile(path)
    History(path).add(entries(1, 2, 3))
    file.refresh()
    resumed = History(path)
    resumed.forget_after(1)
    resumed.add(entries(2, 3, 4, 5, seconds=0.75))
    assert file.refresh()
    assert [line["seconds"] for line in file.lines] == [0.5, 0.75, 0.75, 0.75, 0.75]


def test_a_file_that_goes_and_comes_back_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    file = HistoryFile(path)
    History(path).add(entries(1))
    file.refresh()
    path.unlink()
    assert file.refresh()
    assert (file.lines, file.changed_at_s) == ([], None)
    History(path).add(entries(7))
    assert file.refresh()
    assert rounds(file) == [7]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "\u2026",
        json.dumps({"round": "1"}),
        json.dumps({"round": True}),
        json.dumps({"round": 1, "metrics": [1]}),
        json.dumps({"round": 1, "cme": {"layer": 1}}),
        json.dumps({"round": 1, "seconds": "long"}),
    ],
)
def test_a_line_of_another_form_is_counted_and_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f"{line}\n{Entry(2, 'train').to_json()}\n", encoding="utf-8")
    file = HistoryFile(path)
    file.refresh()
    assert rounds(file) == [2]
    assert file.num_unreadable == 1


def test_bytes_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"\xff\xfe\n" + Entry(1, "train").to_json().encode() + b"\n")
    file = HistoryFile(path)
    file.refresh()
    assert rounds(file) == [1]
