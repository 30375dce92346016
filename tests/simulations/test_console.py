"""What the terminal shows, at 80 columns and in a pipe."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedward.server.rounds import RoundReport
from fedward.server.validation import Rejected
from fedward.simulations.console import (
    Display,
    LiveDisplay,
    NullDisplay,
    PlainDisplay,
    make_display,
)
from tests.server.report_fixture import FakeRun, build_run

DESCRIBED = {
    "name": "heart-disease",
    "repetition": "",
    "model": "mlp",
    "strategy": "fedavg",
    "engine": "ray",
    "rounds": 20,
    "num_sites": 4,
    "num_parameters": 1234,
}


def report(number: int, **changed: Any) -> RoundReport:
    fields: dict[str, Any] = {
        "number": number,
        "num_rounds": 20,
        "num_sampled": 4,
        "num_accepted": 4,
        "refused": [],
        "train_loss": 0.6,
        "eval_loss": 0.65,
        "metrics": {"accuracy": 0.7, "auroc": 0.8124},
        "seconds": 1.23,
        "num_bytes": 98_000,
    }
    return RoundReport(**{**fields, **changed})


def shown(
    run_dir: Path | None = None,
    *reports: RoundReport,
    terminal: bool = False,
    width: int = 80,
) -> str:
    """Return everything that a display writes for a run."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        height=60,
        force_terminal=terminal,
        highlight=False,
        color_system=None,
    )
    display = make_display(console=console)
    display.start(DESCRIBED)
    for each in reports:
        display.round_done(each)
    display.phase("baseline local: each site alone")
    if run_dir is not None:
        display.finish(json.loads((run_dir / "summary.json").read_text()), run_dir)
    display.close()
    return out.getvalue()


def test_where_there_is_no_terminal_each_round_is_one_line() -> None:
    lines = shown(None, report(3), report(4)).splitlines()
    assert lines == [
        "heart-disease: 4 sites, mlp (1,234 parameters), fedavg, 20 rounds, on ray",
        "round  3/20  replies 4/4  train loss 0.600  test loss 0.650  AUROC 0.812  1.2 s  98.0 kB",
        "round  4/20  replies 4/4  train loss 0.600  test loss 0.650  AUROC 0.812  1.2 s  98.0 kB",
        "baseline local: each site alone",
    ]


def test_a_refused_reply_is_named_with_its_reason() -> None:
    refused = [Rejected("va", "rejected", "shape (3,), expected (77,)")]
    written = shown(None, report(7, num_accepted=3, refused=refused))
    assert "replies 3/4" in written
    assert "round 7, va: rejected: shape (3,), expected (77,)" in written


def test_a_skipped_round_and_one_without_evaluation_say_so() -> None:
    written = shown(None, report(2, train_loss=None, eval_loss=None, metrics={}))
    assert "skipped" in written
    assert "None" not in written
    assert "AUROC" not in written


def test_who_stands_still_and_who_rests_is_said_where_anyone_does() -> None:
    still = report(7, saturated=["va", "hungarian"], resting=["va"])
    assert "  2 saturated  1 resting  " in shown(None, still)
    table = shown(None, report(6), still, terminal=True, width=80)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", table)
    assert re.search(r"98\.0 kB +2 \(1 rest\)", plain)
    assert max(map(len, plain.splitlines())) <= 80
    assert "saturated" not in shown(None, report(6), terminal=True)


def test_what_an_early_stop_saved_is_said_at_the_end(tmp_path: Path) -> None:
    folder = build_run(tmp_path, FakeRun(stopped_by="saturation"))
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["monitor"] = {"client_epochs": 60, "client_epochs_saved": 1200}
    path.write_text(json.dumps(summary))
    written = shown(folder)
    assert "early stop (saturation)" in written
    assert "1,200 client epochs saved" in written


def test_a_terminal_gets_a_bar_and_the_last_rounds() -> None:
    written = shown(None, *[report(n) for n in range(1, 13)], terminal=True)
    last = written.split("rounds ")[-2]
    assert "12/20" in written
    assert re.search(r"^ +5 ", last, re.MULTILINE)
    assert not re.search(r"^ +4 ", last, re.MULTILINE)


def test_the_terminal_gets_its_cursor_back() -> None:
    assert shown(None, report(1), terminal=True).rindex("\x1b[?25h") > 0


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "run",
    [
        FakeRun(),
        FakeRun(seeds=(1, 2, 3)),
        FakeRun(baselines=()),
        FakeRun(baselines=("local",)),
        FakeRun(sites=tuple(f"hospital-with-a-long-name-{n:03d}" for n in range(60))),
    ],
)
def test_the_final_table_fits_80_columns(tmp_path: Path, run: FakeRun, terminal: bool) -> None:
    written = shown(build_run(tmp_path, run), report(1), terminal=terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    table = plain[plain.index("AUROC on each site") : plain.index(" moved")]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table or "hospital-with" in table


def test_the_final_table_has_intervals_baselines_and_n(tmp_path: Path) -> None:
    written = shown(build_run(tmp_path), width=130)
    row = next(line for line in written.splitlines() if line.startswith("hungarian"))
    assert row.split()[:3] == ["hungarian", "141", "0.735"]
    assert "0.842 [0.763, 0.896]" in row
    assert "– switzerland: one class (n = 180)" in written
    assert "for 1 it cannot be said" in written


def test_the_paths_are_never_broken(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 20) / "run"
    build_run(folder)
    (folder / "report.html").write_text("")
    assert f"{folder / 'report.html'}\n" in shown(folder)


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    run = FakeRun(evaluated=False, baselines=(), stopped_by="quorum", num_rounds=4)
    written = shown(build_run(tmp_path, run))
    assert "No site reported figures" in written
    assert "ended early: quorum" in written


def test_a_site_cannot_steer_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07[red]x[/red]"
    refused = [Rejected(hostile, "failed", hostile)]
    run = build_run(tmp_path, FakeRun(sites=(hostile, "b")))
    written = shown(run, report(1, refused=refused))
    assert "\x1b" not in written
    assert "\x07" not in written
    assert "[red]x[/red]" in written


def test_with_json_nothing_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    display = make_display(as_json=True)
    assert isinstance(display, NullDisplay)
    display.start(DESCRIBED)
    display.phase("x")
    display.round_done(report(1))
    display.finish({}, tmp_path)
    display.close()
    assert capsys.readouterr().out == ""


def test_every_display_can_be_closed_before_it_showed_anything_and_twice() -> None:
    shown = io.StringIO()
    console = Console(file=shown)
    displays: list[Display] = [NullDisplay(), PlainDisplay(console), LiveDisplay(console)]
    for display in displays:
        display.close()
        display.close()
    assert shown.getvalue() == ""


def test_the_display_is_there_before_torch() -> None:
    code = "import sys, fedward.simulations.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
