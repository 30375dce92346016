"""The model card and the plots for slides."""

from pathlib import Path

import pytest

from fedward.server.report import write_model_card, write_plots
from fedward.server.report.card import text
from tests.server.report_fixture import FakeRun, build_run


def card(folder: Path, run: FakeRun | None = None) -> str:
    return write_model_card(build_run(folder, run)).read_text(encoding="utf-8")


def test_the_card_says_what_the_model_is_not(tmp_path: Path) -> None:
    written = card(tmp_path)
    assert "**Not a medical device.**" in written
    assert "Privacy: none is claimed." in written
    assert "the unit of the split is the patient" in written


def test_the_card_has_figures_with_intervals_and_n_per_site_and_subgroup(tmp_path: Path) -> None:
    written = card(tmp_path)
    assert "| cleveland | 0.761 [0.669, 0.832], n = 135 |" in written
    assert "| cleveland | sex=female |" in written
    assert "undefined: one class, n = 180" in written
    assert "## Calibration" in written


def test_a_card_without_subgroups_says_that_differences_are_unknown(tmp_path: Path) -> None:
    written = card(tmp_path, FakeRun(evaluated=False, baselines=(), stopped_by="quorum"))
    assert "None were reported" in written
    assert "**The run did not finish" in written


def test_a_site_name_cannot_break_the_table_of_a_card(tmp_path: Path) -> None:
    written = card(tmp_path, FakeRun(sites=("a|b\n# owned", "<b>x</b>", "[l](javascript:x)")))
    assert "\n# owned" not in written
    assert "<b>" not in written
    assert r"a\|b \# owned" in written
    assert r"\[l\](javascript:x)" in written


def test_text_for_markdown_by_hand() -> None:
    assert text("a_b *c* `d`\n& <e>") == r"a\_b \*c\* \`d\` &amp; &lt;e&gt;"


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (FakeRun(), {"convergence.png", "sites.png"}),
        (FakeRun(baselines=()), {"convergence.png", "sites.png"}),
        (FakeRun(evaluated=False, baselines=()), {"convergence.png"}),
        (FakeRun(sites=tuple(f"$s_{n}$" for n in range(40)), num_rounds=3), None),
    ],
)
def test_plots_are_drawn_for_what_there_is(
    tmp_path: Path, run: FakeRun, names: set[str] | None
) -> None:
    written = write_plots(build_run(tmp_path, run))
    assert {path.name for path in written} == (names or {"convergence.png", "sites.png"})
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
