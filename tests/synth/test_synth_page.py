"""The page on a synthetic cohort: the answer first, in words, and nothing that could be code."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from fedward.common.errors import StorageError
from fedward.common.task import Metric
from fedward.synth.evaluation.charts import Scale, gap_words
from fedward.synth.evaluation.copies import Copies
from fedward.synth.evaluation.evaluate import Evaluation
from fedward.synth.evaluation.page import POLICY, answer, render, size_sentence, write_page
from fedward.synth.evaluation.pictures import heat_map, margin_pictures, worst_pairs
from fedward.synth.evaluation.risk import Risk
from tests.synth.made_evaluation import (
    columns,
    evaluation,
    fidelity,
    findings,
    report,
    risk,
    rows,
    untested,
    utility,
)

HOSTILE = "<script>document.title='owned'</script>\"'&"


def leaking(*more: Risk) -> Evaluation:
    return evaluation(findings(privacy=report(risk("density_auc", "sepsis", 0.81), *more)))


def hostile() -> Evaluation:
    """Return an evaluation in which every name is markup."""
    table = columns(HOSTILE, (HOSTILE, "ill"))
    made = rows(300, 3, HOSTILE)
    found = replace(
        findings(privacy=report(risk("inference", "crp", 0.9))), fidelity=fidelity(table, made)
    )
    privacy = found.privacy
    assert privacy is not None
    renamed = replace(
        privacy,
        membership=tuple(replace(r, group=HOSTILE) for r in privacy.membership),
        inference=tuple(replace(r, group=HOSTILE) for r in privacy.inference),
        cautions=(HOSTILE,),
    )
    page = evaluation(replace(found, privacy=renamed), name=HOSTILE)
    return replace(page, facts={HOSTILE: HOSTILE})


class Tags(HTMLParser):
    """Collects the tags of a page, and what its links point to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key.startswith("on"):
                self.handlers.append(key)
            if key in {"href", "src"} and tag != "link":
                self.targets.append(value or "")
            if key == "id":
                self.ids.append(value or "")


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def text_of(page: str) -> str:
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_answer_stands_first_and_its_reasons_with_figures_follow() -> None:
    text = text_of(render(leaking()))
    start = text.index("May this cohort be shared?")
    assert start < text.index("No. Do not share this cohort.") < text.index("Patients can be rec")
    assert "AUROC 0.81 [0.76, 0.86]" in text
    assert text.index("81 of 100 pairs") < text.index("Are patients safe?")
    assert "300 synthetic rows with 4 columns, made from 200 patients" in text


def test_a_shareable_cohort_is_called_so_on_this_evidence() -> None:
    found = answer(evaluation())
    assert found.kind == "yes"
    assert "On this evidence" in found.headline
    assert len(found.first) <= 5


def test_a_useless_cohort_is_not_praised() -> None:
    found = answer(evaluation(findings(use=utility(0.5, 0.8))))
    assert found.kind == "useless"
    assert "of no use" in found.headline
    assert found.first[0].code == "useless"


def test_all_that_blocks_is_in_the_headline_and_comes_first() -> None:
    made = rows(300, 3).assign(crp=-1.0)
    found = answer(
        evaluation(
            replace(
                findings(privacy=report(risk("density_auc", "all", 0.9)), synthetic=made),
                copies=Copies(7, 300, 0, 200),
            )
        )
    )
    assert found.why == (
        "Patients can be recognised, rows are copies of patients and rows hold impossible values."
    )
    assert [one.weight for one in found.first[:3]] == ["blocks"] * 3


def test_every_reason_is_on_the_page() -> None:
    for page in (evaluation(), leaking(), untested()):
        text = text_of(render(page)).replace("\N{NO-BREAK SPACE}", " ")
        for one in page.verdict.reasons:
            start = one.sentence.replace(">", "&gt;").replace("'", "&#39;")[:60]
            assert start in text


def test_without_holdout_the_page_says_untested_and_shows_no_privacy_figure() -> None:
    text = text_of(render(untested()))
    assert "Not tested: no patients were kept aside" in text
    assert "DCR" not in text.split("How it is decided")[0]
    assert "No patients to test with." in size_sentence(untested())
    assert "(1, 1e-05)-differentially private" in text


def test_names_are_never_markup() -> None:
    page = render(hostile())
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10
    tags = parsed(page)
    assert tags.handlers == []
    assert "img" not in tags.tags


@pytest.mark.parametrize("page", [evaluation(), leaking(), untested()])
def test_the_page_runs_no_script_and_asks_for_nothing(page: Evaluation) -> None:
    text = render(page)
    tags = parsed(text)
    assert not {"script", "iframe", "object", "form", "img"} & set(tags.tags)
    assert all(target.startswith("#") for target in tags.targets)
    assert {target[1:] for target in tags.targets} <= set(tags.ids)
    assert "http://" not in text
    assert "https://" not in text
    assert f'content="{escape(POLICY)}"' in text
    assert POLICY.startswith("default-src 'none'")
    assert len(text) < 200_000


def test_headings_go_down_one_by_one() -> None:
    levels = [int(tag[1]) for tag in parsed(render(leaking())).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_charts_have_words_for_those_who_do_not_see_them() -> None:
    page = render(leaking())
    assert "Patients of class sepsis: density attack 0.81 [0.76, 0.86]" in page.replace(
        "Density", "density"
    )
    assert page.count('role="img"') == page.count("aria-label=") - page.count('role="region"') - 1


def test_a_scale_puts_its_ends_at_the_edges_and_nothing_beyond() -> None:
    scale = Scale(0.4, 1.0, 0.1)
    assert [scale.at(value) for value in (0.2, 0.4, 0.7, 1.0, 1.2)] == [0, 0, 50, 100, 100]
    assert [text for _, text in scale.ticks] == ["0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]


def test_differences_carry_their_sign() -> None:
    assert gap_words(Metric(0.034, 0.01, 0.06)) == "+0.03 [0.01, 0.06]"
    assert gap_words(Metric(-0.034)) == "\N{MINUS SIGN}0.03"
    assert gap_words(Metric(None, reason="one class")) == "–"


def test_the_most_different_columns_and_pairs_come_first() -> None:
    made = rows(300, 3).assign(sbp=lambda table: table["sbp"] + 60)
    made["dbp"] = made["dbp"].to_numpy()[::-1]
    found = fidelity(columns(), made.assign(dbp=made[["sbp", "dbp"]].min(axis=1)))
    pictures = margin_pictures(found.margins)
    assert pictures[0].title == "sbp (mmHg)"
    assert pictures[-1].words.startswith("distance 0.0")
    pair = worst_pairs(found.associations)[0]
    assert pair.names == "sbp and dbp"
    cell = heat_map(found.associations).cells[0]
    assert "dbp and sbp" in cell.words
    red, _, blue = (int(cell.colour[i : i + 2], 16) for i in (1, 3, 5))
    assert blue > red  # a link that is lost


def test_a_pair_that_cannot_be_compared_is_white() -> None:
    made = rows(300, 3).assign(ward="medicine")
    cells = heat_map(fidelity(columns(), made).associations).cells
    blank = [cell for cell in cells if "cannot be said" in cell.words]
    assert blank
    assert {cell.colour for cell in blank} == {"#ffffff"}


def test_figures_that_are_missing_leave_a_page(tmp_path: Path) -> None:
    empty: pd.DataFrame = rows(300, 3).assign(crp=float("nan"))
    page = evaluation(findings(use=utility(None, None), synthetic=empty), mixing=False)
    written = write_page(page, tmp_path / "report.html")
    text = text_of(written.read_text(encoding="utf-8"))
    assert not re.search(r"\bnan\b", text)
    assert not re.search(r"\bNone\b(?! of the 300 rows)", text)


def test_a_page_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        write_page(evaluation(), tmp_path / "nowhere" / "report.html")
