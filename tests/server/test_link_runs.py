"""The coordinator's run folders: one per request, one process each, never again after its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedward.common.errors import ConfigError, RefusedError, StorageError
from fedward.common.request import RunRequest
from fedward.server.link.runs import (
    MAX_ATTEMPTS,
    all_runs,
    claimed,
    end_run,
    find_run,
    may_try_again,
    read_status,
)


def test_the_folder_of_a_run_belongs_to_one_process(tmp_path: Path) -> None:
    request = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    with (
        claimed(tmp_path, request, "text", 1) as folder,
        pytest.raises(RefusedError, match="another process"),
        claimed(tmp_path, request, "text", 2),
    ):
        pass
    assert read_status(folder).flower_run == 1
    assert (folder / "request.json").read_text() == "text"


def test_attempts_count_only_starts_without_progress(tmp_path: Path) -> None:
    request = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    attempts = []
    for number in range(4):
        with claimed(tmp_path, request, "text", number) as folder:
            attempts.append(read_status(folder).attempts)
            if number == 1:
                (folder / "round-1.safetensors").touch()
    assert attempts == [1, 2, 1, 2]
    assert all_runs(tmp_path) == [folder]


def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path) -> None:
    request = RunRequest("anna", {"name": "../../etc"}, {}, "2026-01-01T00:00:00+00:00")
    with (
        pytest.raises(ConfigError, match="no usable name"),
        claimed(tmp_path, request, "text", 1),
    ):
        pass


def test_a_status_says_why_a_run_ended(tmp_path: Path) -> None:
    request = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    with claimed(tmp_path, request, "text", 1) as folder:
        end_run(folder, "failed", "too few sites", 5)
    status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["message"], status["exit_code"]) == (
        "failed",
        "too few sites",
        5,
    )
    assert status["request"] == request.hash


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_a_request_that_has_ended_is_refused(tmp_path: Path, state: Any) -> None:
    request = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    with claimed(tmp_path, request, "text", 1) as folder:
        end_run(folder, state)
    with (
        pytest.raises(RefusedError, match=f"{state}.*submit the run again"),
        claimed(tmp_path, request, "text", 2),
    ):
        pass


def test_two_requests_for_the_same_run_get_two_folders(tmp_path: Path) -> None:
    first = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    second = RunRequest("anna", {"name": "toy"}, {}, "2026-01-02T00:00:00+00:00")
    with claimed(tmp_path, first, "text", 1) as one, claimed(tmp_path, second, "text", 2) as two:
        assert one != two
    assert find_run(tmp_path, second.hash) == two
    assert find_run(tmp_path, "0" * 64) is None


def test_a_run_may_try_again_until_it_was_started_too_often(tmp_path: Path) -> None:
    request = RunRequest("anna", {"name": "toy"}, {}, "2026-01-01T00:00:00+00:00")
    for number in range(MAX_ATTEMPTS):
        with claimed(tmp_path, request, "text", number) as folder:
            status = read_status(folder)
        assert may_try_again(folder, status) == (number < MAX_ATTEMPTS - 1)
    (folder / "round-1.safetensors").touch()
    assert may_try_again(folder, status)


def test_a_damaged_status_is_named(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(StorageError, match=r"status\.json: cannot be read back"):
        read_status(tmp_path)
