"""The history as arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.common.errors import FedwardError
from fedward.server.report.series import chunk, read_rounds, tabulate, thin


def line(number: int, site: str | None, **more: Any) -> dict[str, Any]:
    return {"round": number, "site": site, "phase": "train", "status": "ok", **more}


def test_a_round_without_a_figure_is_a_gap() -> None:
    rounds = tabulate(
        [
            line(1, "b", metrics={"train_loss": 0.5}, bytes_sent=10, bytes_received=3),
            line(1, "a", status="failed", reason="killed"),
            line(2, "a", metrics={"train_loss": 0.4}),
            line(2, None, seconds=1.5, metrics={"train_loss": 0.45}),
        ]
    )
    assert rounds.sites == ["a", "b"]
    np.testing.assert_array_equal(rounds.per_site["train_loss"], [[np.nan, 0.5], [0.4, np.nan]])
    assert rounds.counts("ok").tolist() == [1, 1]
    assert rounds.counts("failed").tolist() == [1, 0]
    assert (rounds.bytes_sent.tolist(), rounds.seconds.tolist()) == ([10, 0], [0, 1.5])


def test_the_preparation_before_round_one_is_no_round() -> None:
    assert tabulate([line(0, "a", status="failed")]).numbers == []


def test_the_federation_without_a_figure_is_the_mean_of_its_sites() -> None:
    rounds = tabulate([line(1, "a", metrics={"x": 1.0}), line(1, "b", metrics={"x": 2.0})])
    assert rounds.curve("x").tolist() == [1.5]


def test_a_loss_has_one_name_per_phase() -> None:
    rounds = tabulate(
        [line(1, "a", metrics={"loss": 1.0}), line(1, "a", phase="evaluate", metrics={"loss": 2.0})]
    )
    assert rounds.figures == ["train_loss", "eval_loss"]


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps(line(1, "a"))
    (tmp_path / "history.jsonl").write_text(f'{whole}\n{{"round": 2, "si')
    assert read_rounds(tmp_path).numbers == [1]
    (tmp_path / "history.jsonl").write_text(f"{whole}\nbroken\n{whole}\n")
    with pytest.raises(FedwardError, match="not JSON"):
        read_rounds(tmp_path)


def test_thinning_keeps_the_first_and_the_last() -> None:
    kept = thin(10_000, 300)
    assert (kept[0], kept[-1]) == (0, 9_999)
    assert len(kept) <= 300
    assert thin(5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 59, 60, 61, 10_000])
def test_chunks_cover_every_round_once(count: int) -> None:
    starts = chunk(count)
    assert len(starts) <= 60
    assert np.diff([*starts, count]).sum() == count
