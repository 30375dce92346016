"""The final table of a run that classifies and segments."""

import io
import json
from pathlib import Path

from rich.console import Console

from fedward.simulations.console_results import results
from tests.server.report_images import build_image_run


def test_both_headline_figures_have_a_table_and_an_answer(tmp_path: Path) -> None:
    summary = json.loads((build_image_run(tmp_path) / "summary.json").read_text())
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None)
    for part in results(summary, tmp_path, width=80):
        console.print(part)
    lines = out.getvalue().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("AUROC on each site"))
    second = next(n for n, line in enumerate(lines) if line.startswith("Dice on each site"))
    assert first < second
    assert sum("north" in line for line in lines) == 2
    assert any("+0.020" in line for line in lines[second:])
    assert max(map(len, lines)) <= 80
