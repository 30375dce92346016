"""What the report says of runs with images: pictures of cases, figures of masks, subgroups."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedward.server.report import build_report, write_model_card, write_plots
from fedward.server.report.answers import answers
from fedward.server.report.record import parse_run, read_run
from fedward.server.report.subgroups import subgroup_table
from tests.server.report_fixture import FakeRun, build_run
from tests.server.report_images import SITES, WORDS, Images, build_image_run, figure, png
from tests.server.test_report import Reader

WITHHELD = {
    "value": None,
    "n": None,
    "reason": "withheld by the site: it may tell of fewer than 5 patients",
}


def read(folder: Path) -> Reader:
    reader = Reader()
    reader.feed(build_report(folder).read_text(encoding="utf-8"))
    return reader


def pictures_in(reader: Reader) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in reader.tags if tag == "img"]


def grouped(*sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a summary of sites with the subgroup `women`, given by its figures."""
    return {
        "primary_metric": "auroc",
        "sites": {
            f"site-{number}": {
                "metrics": {name: figure(0.8, 0.1, 50) for name in metrics},
                "subgroups": {"women": {"metrics": metrics}},
            }
            for number, metrics in enumerate(sites)
        },
    }


def test_each_site_has_a_picture_inside_the_page_with_words_for_the_blind(tmp_path: Path) -> None:
    reader = read(build_image_run(tmp_path))
    shown = pictures_in(reader)
    assert len(shown) == 3
    assert all(str(one["src"]).startswith("data:image/png;base64,") for one in shown)
    assert [str(one["alt"]).split(":")[0] for one in shown] == list(SITES)
    assert all(WORDS in str(one["alt"]) for one in shown)
    assert shown[0]["width"] == "890"
    assert "phantoms or public data" in reader.text


def test_without_pictures_the_report_says_where_they_are_made(tmp_path: Path) -> None:
    reader = read(build_image_run(tmp_path, images=Images(pictured=False)))
    assert pictures_in(reader) == []
    assert "Pictures of patients stay at the sites" in reader.text
    assert "fedward model montage heart-disease --site site.yaml --out cases.png" in reader.text


def test_a_run_of_tables_says_nothing_of_cases(tmp_path: Path) -> None:
    reader = read(build_run(tmp_path))
    assert "cases" not in [attributes.get("id") for _, attributes in reader.tags]
    assert "montage" not in reader.text


@pytest.mark.parametrize(("num_sites", "is_folded"), [(8, False), (9, True)])
def test_pictures_of_more_than_eight_sites_are_folded_away(
    tmp_path: Path, num_sites: int, is_folded: bool
) -> None:
    sites = tuple(f"site-{number}" for number in range(num_sites))
    reader = read(build_image_run(tmp_path, FakeRun(sites=sites, one_class_site=None)))
    assert len(pictures_in(reader)) == num_sites
    assert (f"Pictures of {num_sites} sites" in reader.text) is is_folded


def test_only_pictures_of_the_runs_own_sites_are_taken(tmp_path: Path) -> None:
    build_image_run(tmp_path)
    (tmp_path / "pictures" / "another.png").write_bytes(png())
    (tmp_path / "pictures" / "west.png").write_bytes(b"\x89PNG cut off")
    (tmp_path / "pictures" / "south.png").write_bytes(png() + bytes(2_000_001))
    reader = read(tmp_path)
    assert len(pictures_in(reader)) == 1
    assert "1 of 3 sites are shown" in reader.text


def test_the_words_of_a_picture_are_no_markup(tmp_path: Path) -> None:
    build_image_run(tmp_path)
    attack = '"><script>alert(1)</script>'
    (tmp_path / "pictures" / "west.png").write_bytes(png(attack))
    reader = read(tmp_path)
    assert [tag for tag, _ in reader.tags].count("script") == 3
    assert attack in str(pictures_in(reader)[2]["alt"])


def test_the_second_figure_has_an_answer_a_table_and_a_curve_of_its_own(tmp_path: Path) -> None:
    page = build_report(build_image_run(tmp_path)).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.text.count("Gain from joining") == 2
    assert "And in Dice?" in reader.text
    assert "Mean gain in Dice over hospitals: +0.020" in reader.text
    match = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    assert {"arms", "arms-second", "round-dice"} <= set(json.loads(match.group(1)))
    learning = page[page.index('id="learning"') : page.index("more figures by round")]
    assert 'data-chart="round-dice"' in learning


def test_a_run_with_one_headline_figure_has_one_table(tmp_path: Path) -> None:
    text = read(build_run(tmp_path)).text
    assert text.count("Gain from joining") == 1
    assert "And in" not in text


def test_millimetres_are_not_cut_to_the_range_of_shares(tmp_path: Path) -> None:
    build_image_run(tmp_path, images=Images(secondary="hd95_mm"))
    auroc, distance = answers(read_run(tmp_path))
    assert auroc.reach <= 0.5
    assert distance.reach > 1.0
    assert distance.lower_is_better
    assert distance.sites[0].gain.value == pytest.approx(0.4)
    assert distance.sites[0].answer == "unclear"
    assert "The figure itself is better when lower" in read(tmp_path).text


def test_a_second_figure_that_no_site_has_is_left_out(tmp_path: Path) -> None:
    build_image_run(tmp_path, images=Images(secondary="dice.kidney"))
    assert read_run(tmp_path).headline_metrics == ["auroc"]


def test_counts_of_rows_are_whole_numbers(tmp_path: Path) -> None:
    text = read(build_image_run(tmp_path)).text
    assert "Rows without a lesion" in text
    assert "3.000" not in text


def test_the_card_and_the_plots_compare_both_figures(tmp_path: Path) -> None:
    build_image_run(tmp_path)
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    worth = card[card.index("## Is it worth joining?") :]
    assert worth.index("(AUROC.)") < worth.index("(Dice.)")
    assert "HD95 the diagonal of the image" in card
    names = {path.name for path in write_plots(tmp_path)}
    assert names == {"convergence.png", "sites.png", "sites-dice.png"}


def test_a_label_of_each_row_is_named_where_patients_have_several(tmp_path: Path) -> None:
    build_image_run(tmp_path)
    assert "somewhat too narrow; those of masks" not in read(tmp_path).text
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text())
    summary["sites"]["north"]["metrics"]["accuracy"]["n"] = 10_000
    path.write_text(json.dumps(summary))
    assert "somewhat too narrow; those of masks" in read(tmp_path).text


@pytest.mark.parametrize(
    ("rows", "said"),
    [("lesion", "cut round the lesions"), ("slice", "Only slices"), ("volume", None)],
)
def test_what_the_truth_chose_is_said_beside_the_figures(
    tmp_path: Path, rows: str, said: str | None
) -> None:
    build_image_run(tmp_path)
    with (tmp_path / "config.yaml").open("a", encoding="utf-8") as config:
        config.write(f"data: {{image: {{rows: {rows}}}}}\n")
    texts = (read(tmp_path).text, write_model_card(tmp_path).read_text(encoding="utf-8"))
    for text in texts:
        for other in ("cut round the lesions", "Only slices"):
            assert (other in text) == (other == said)


def test_a_subgroup_is_the_mean_over_sites_with_n_summed() -> None:
    a = {"auroc": figure(0.7, 0.03, 30), "dice": figure(0.5, 0.1, 31)}
    b = {"auroc": figure(0.9, 0.04, 50), "dice": figure(0.7, 0.1, 52)}
    table = subgroup_table(parse_run(grouped(a, b)))
    assert table is not None
    assert table.metrics == ["auroc", "dice"]
    (women,) = table.groups
    auroc, dice = (cell.metric for cell in women.cells)
    assert auroc.value == pytest.approx(0.8)
    # Half of the root of .03^2 + .04^2.
    assert [auroc.low, auroc.high] == pytest.approx([0.775, 0.825])
    assert (auroc.n, dice.n) == (80, 83)
    assert [row.name for row in table.sites] == ["site-0", "site-1"]


def test_a_cell_that_a_site_withholds_says_so() -> None:
    table = subgroup_table(parse_run(grouped({"auroc": figure(0.7, 0.1, 30)}, {"auroc": WITHHELD})))
    assert table is not None
    cell = table.groups[0].cells[0]
    assert (cell.metric.value, cell.metric.n) == (0.7, 30)
    assert cell.gaps == "withheld at 1 of 2 sites"
    hidden = subgroup_table(parse_run(grouped({"auroc": WITHHELD}, {"auroc": WITHHELD})))
    assert hidden is not None
    metric = hidden.groups[0].cells[0].metric
    assert (metric.value, metric.reason) == (None, WITHHELD["reason"])


def test_an_undefined_figure_is_not_called_withheld() -> None:
    one_class = {"value": None, "n": 3, "reason": "one class"}
    table = subgroup_table(
        parse_run(grouped({"auroc": figure(0.7, 0.1, 30)}, {"auroc": one_class}))
    )
    assert table is not None
    assert table.groups[0].cells[0].gaps == "undefined at 1 of 2 sites"


def test_the_page_and_the_card_have_the_subgroups_table(tmp_path: Path) -> None:
    summary = grouped({"auroc": figure(0.7, 0.1, 30)}, {"auroc": WITHHELD}, {"auroc": WITHHELD})
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = read(tmp_path).text
    assert "withheld at 2 of 3 sites" in text
    card = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert "| women | 0.700 [0.600, 0.800], n = 30 (withheld at 2 of 3 sites) |" in card
    assert "| Site site-2 | 0.800 [0.700, 0.900], n = 50 |" in card


def test_without_subgroups_there_is_no_table() -> None:
    run = parse_run({"sites": {"a": {"metrics": {"auroc": {"value": 0.5}}}}})
    assert subgroup_table(run) is None
