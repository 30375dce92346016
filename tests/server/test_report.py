"""The report as a file: what it says, what it must not let through, how large it gets."""

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedward.common.errors import FedwardError
from fedward.server.report import build_report
from tests.server.report_fixture import FakeRun, build_run

ATTACK = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def read(folder: Path, run: FakeRun | None = None) -> Reader:
    """Build the report of a fake run and read it."""
    reader = Reader()
    reader.feed(build_report(build_run(folder, run)).read_text(encoding="utf-8"))
    return reader


def text_of(page: str) -> str:
    reader = Reader()
    reader.feed(page)
    return reader.text


def test_the_report_answers_per_hospital_whether_joining_was_worth_it(tmp_path: Path) -> None:
    text = read(tmp_path).text
    assert "Is it worth joining?" in text
    assert "for 1 it cannot be said" in text
    for site in ("cleveland", "hungarian", "switzerland", "va-long-beach"):
        assert site in text
    assert "one class (n = 180)" in text


def test_the_gain_of_repetitions_is_paired(tmp_path: Path) -> None:
    run = FakeRun(seeds=(1, 2, 3, 4, 5))
    text = read(tmp_path, run).text
    assert "over 5 repetitions" in text
    assert "A gain's interval is paired" in text


def test_without_baselines_the_report_says_that_it_cannot_say(tmp_path: Path) -> None:
    text = read(tmp_path, FakeRun(baselines=())).text
    assert "no site was trained alone for comparison" in text
    assert "baselines: [local, pooled]" in text
    assert "Better together" not in text


def test_a_run_that_lost_its_quorum_says_so_first(tmp_path: Path) -> None:
    run = FakeRun(evaluated=False, baselines=(), stopped_by="quorum", num_rounds=4)
    text = read(tmp_path, run).text
    assert "This run did not finish: quorum lost." in text
    assert "no site has evaluated a model" in text
    assert text.index("did not finish") < text.index("Is it worth joining?")


def test_rejected_replies_stand_there_with_their_reasons(tmp_path: Path) -> None:
    text = read(tmp_path).text
    assert "parameters hold NaN or infinite values" in text
    assert "3 replies were rejected or failed" in text


def test_the_report_names_what_its_figures_do_not_say(tmp_path: Path) -> None:
    text = read(tmp_path).text
    assert "not a medical device" in text
    assert "Privacy: none is claimed." in text
    assert "one seed and one split" in text


def test_the_folder_of_a_run_without_history_still_has_a_report(tmp_path: Path) -> None:
    build_run(tmp_path)
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "config.yaml").unlink()
    assert "There is no history of rounds" in build_report(tmp_path).read_text(encoding="utf-8")


def test_a_summary_with_nothing_but_a_name_still_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"name": "bare"}')
    assert "There are no figures" in build_report(tmp_path).read_text(encoding="utf-8")


def test_under_secure_aggregation_no_site_is_shown(tmp_path: Path) -> None:
    build_run(tmp_path)
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text())
    del summary["sites"]
    summary["baselines"] = {}
    path.write_text(json.dumps(summary))
    assert "they did not leave the sites" in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("{", "not JSON"), ("[]", "expected a JSON object")],
)
def test_a_summary_that_cannot_be_read_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(FedwardError, match=message):
        build_report(tmp_path)


def test_a_figure_that_is_not_a_number_is_undefined(tmp_path: Path) -> None:
    metrics = '{"auroc": {"value": NaN, "low": 0.1, "high": 0.2, "n": 5}}'
    (tmp_path / "summary.json").write_text(f'{{"sites": {{"a": {{"metrics": {metrics}}}}}}}')
    text = build_report(tmp_path).read_text(encoding="utf-8")
    assert "not reported" in text
    assert not re.search(r"\bnan\b", text_of(text), re.IGNORECASE)


@pytest.mark.parametrize(
    "field", ["site", "name", "model", "reason", "config", "metric", "version"]
)
def test_no_text_of_a_run_becomes_markup(tmp_path: Path, field: str) -> None:
    sites = (ATTACK, "b") if field == "site" else ("a", "b")
    build_run(tmp_path, FakeRun(sites=sites, one_class_site=None))
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text())
    site = next(iter(summary["sites"].values()))
    if field in {"name", "model"}:
        summary[field] = ATTACK
    if field == "reason":
        summary["rejected"] = [{"round": 1, "site": ATTACK, "reason": ATTACK, "status": ATTACK}]
        site["metrics"]["auroc"] = {"value": None, "reason": ATTACK, "n": 3}
    if field == "metric":
        site["metrics"][ATTACK] = {"value": 0.5}
    if field == "version":
        summary["versions"] = {ATTACK: ATTACK}
    if field == "config":
        (tmp_path / "config.yaml").write_text(f"name: {ATTACK}\n")
    path.write_text(json.dumps(summary))
    page = build_report(tmp_path).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert [tag for tag, _ in reader.tags].count("script") == 3  # the data, plotly.js, our own
    assert ATTACK not in page
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)


def test_a_site_name_cannot_end_the_chart_data(tmp_path: Path) -> None:
    build_run(tmp_path, FakeRun(sites=("</script><script>alert(1)//", "b")))
    page = build_report(tmp_path).read_text(encoding="utf-8")
    match = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL
    )
    assert match is not None
    assert {"arms", "participation", "time", "traffic"} <= set(json.loads(match.group(1)))


def test_the_report_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    reader = read(tmp_path)
    links = [
        value
        for _, attributes in reader.tags
        for name, value in attributes.items()
        if name in {"src", "href", "action", "srcset", "data"} and value is not None
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(a["content"] for t, a in reader.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_plotly_is_inlined_once(tmp_path: Path) -> None:
    page = build_report(build_run(tmp_path)).read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1


def test_the_page_is_a_document_that_a_screen_reader_can_use(tmp_path: Path) -> None:
    reader = read(tmp_path)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == tags.count("main") == 1
    assert tags.count("caption") == tags.count("table") > 2
    assert dict(reader.tags)["html"] == {"lang": "en"}
    charts = [a for _, a in reader.tags if "data-chart" in a]
    assert charts
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    ids = [a["id"] for _, a in reader.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    anchors = [str(a["href"])[1:] for t, a in reader.tags if t == "a"]
    assert set(anchors) <= set(ids)


def test_a_thousand_sites_make_a_small_report_in_seconds(tmp_path: Path) -> None:
    run = FakeRun(sites=tuple(f"site-{n:04d}" for n in range(1000)))
    build_run(tmp_path, run)
    started = time.process_time()
    path = build_report(tmp_path)
    assert time.process_time() - started < 10
    assert path.stat().st_size < 8_000_000
    text = text_of(path.read_text(encoding="utf-8"))
    assert "All 1,000 hospitals" in text
    assert "site-0999" in text


def test_ten_thousand_rounds_are_thinned_out(tmp_path: Path) -> None:
    lines = [
        {"round": r, "site": s, "phase": "train", "status": "ok", "metrics": {"train_loss": 1 / r}}
        for r in range(1, 10_001)
        for s in (None, "a", "b")
    ]
    build_run(tmp_path, FakeRun(sites=("a", "b"), one_class_site=None, refusals=False))
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert build_report(tmp_path).stat().st_size < 6_000_000


def test_building_a_report_does_not_import_a_reader_of_patients(tmp_path: Path) -> None:
    build_run(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from fedward.server.report import build_report, write_model_card, write_plots\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "build_report(folder); write_plots(folder); write_model_card(folder)\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
