import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedward.client.store import SiteStore
from fedward.common.errors import StorageError


def put(store: SiteStore, value: float, *, round_number: int, run: str = "run") -> None:
    arrays = {"w": np.full(3, value, np.float32)}
    store.put(run, "bern", "local", round_number=round_number, arrays=arrays)


def found(store: SiteStore, *, before_round: int, run: str = "run") -> float | None:
    arrays = store.get(run, "bern", "local", before_round=before_round)
    return None if arrays is None else float(arrays["w"][0])


def test_a_round_that_is_asked_for_again_starts_from_the_state_before_it(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "store.sqlite")
    put(store, 3.0, round_number=3)
    put(store, 9.0, round_number=9)
    assert found(store, before_round=9) == 3.0
    assert found(store, before_round=10) == 9.0
    assert found(store, before_round=3) is None


def test_two_rounds_are_kept_and_no_more(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "store.sqlite")
    for number in (1, 2, 3):
        put(store, float(number), round_number=number)
    assert found(store, before_round=2) is None
    assert found(store, before_round=3) == 2.0


def test_runs_do_not_see_each_other(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "store.sqlite")
    put(store, 1.0, round_number=1, run="one")
    assert found(store, before_round=9, run="two") is None


def test_what_was_put_survives_the_process(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "store.sqlite")
    put(store, 1.5, round_number=1)
    store.close()
    assert found(SiteStore(tmp_path / "store.sqlite"), before_round=2) == 1.5


def test_a_store_never_shows_what_it_holds() -> None:
    assert "1.5" not in repr(SiteStore(None))


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="site database"):
        put(SiteStore(tmp_path / "no" / "store.sqlite"), 1.0, round_number=1)


OPENER = """
import sys, time
from pathlib import Path
import numpy as np
from fedward.client.store import SiteStore
time.sleep(max(0, float(sys.argv[2]) - time.time()))
for number in range(40):
    store = SiteStore(Path(sys.argv[1]) / f"{number}.sqlite")
    store.put("run", sys.argv[3], "x", round_number=1, arrays={"w": np.zeros(1)})
    store.close()
"""


def test_processes_that_open_one_new_store_at_once_all_get_in(tmp_path: Path) -> None:
    import time

    start = str(time.time() + 2.0)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path), start, f"site-{number}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for opener in openers:
        _, err = opener.communicate(timeout=60)
        assert opener.returncode == 0, err[-500:]
    store = SiteStore(tmp_path / "0.sqlite")
    assert all(store.get("run", f"site-{n}", "x", before_round=2) for n in range(4))
