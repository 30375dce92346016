"""The page on a synthetic cohort in a real browser: silent, offline, no wider than the screen."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedward.synth.evaluation.evaluate import Evaluation
from fedward.synth.evaluation.page import write_page
from tests.server.chromium import headless
from tests.synth.made_evaluation import evaluation, untested
from tests.synth.test_synth_page import hostile, leaking

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium or chromedriver is missing: apt-get install chromium chromium-driver",
    ),
]
PAGES: dict[str, Callable[[], Evaluation]] = {
    "shareable": evaluation,
    "leaking": leaking,
    "untested": untested,
    "hostile": hostile,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from headless(CHROMIUM, DRIVER)


@pytest.fixture(scope="module", params=list(PAGES))
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_page(PAGES[request.param](), folder / "report.html")


def show(browser: Any, page: Path, width_px: int) -> None:
    """Open the page in a window of `width_px`; what was logged before is dropped."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600},
    )
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())


def requests(browser: Any) -> list[str]:
    """Return the addresses that were asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


@pytest.mark.parametrize("width_px", [1280, 400])
def test_it_is_silent_and_asks_for_nothing(browser: Any, page: Path, width_px: int) -> None:
    show(browser, page, width_px)
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.title != "owned"


@pytest.mark.parametrize("width_px", [1280, 768, 400])
def test_no_part_is_wider_than_the_screen(browser: Any, page: Path, width_px: int) -> None:
    show(browser, page, width_px)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width_px
    too_wide = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre')"
        " && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert too_wide == []


@pytest.mark.parametrize("width_px", [1280, 400])
def test_the_answer_and_its_first_reason_are_on_the_first_screen(
    browser: Any, page: Path, width_px: int
) -> None:
    show(browser, page, width_px)
    bottoms = browser.execute_script(
        "return ['.verdict', '.reasons li'].map(s => "
        "document.querySelector(s).getBoundingClientRect().bottom)"
    )
    assert max(bottoms) < 900


def test_points_stand_where_their_figures_are(browser: Any, tmp_path: Path) -> None:
    show(browser, write_page(leaking(), tmp_path / "report.html"), 1280)
    # Of the lane of patients with sepsis: AUROC 0.81 on an axis from 0.4 to 1.0.
    found = browser.execute_script(
        "const lane = [...document.querySelectorAll('#privacy .lane')]"
        ".find(l => l.querySelector('.name').textContent.includes('class sepsis'));"
        "const plot = lane.querySelector('.plot > svg').getBoundingClientRect();"
        "const dot = lane.querySelector('g.first circle').getBoundingClientRect();"
        "const zone = lane.querySelector('.zone').getBoundingClientRect();"
        "return [(dot.left + dot.width / 2 - plot.left) / plot.width,"
        " (zone.left - plot.left) / plot.width, lane.className]"
    )
    assert found[0] == pytest.approx((0.81 - 0.4) / 0.6, abs=0.01)
    assert found[1] == pytest.approx((0.60 - 0.4) / 0.6, abs=0.01)
    assert "over" in found[2]


def test_scrolling_parts_and_folds_are_reached_by_keyboard(browser: Any, tmp_path: Path) -> None:
    show(browser, write_page(leaking(), tmp_path / "report.html"), 400)
    missed = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0).length"
    )
    assert missed == 0
    assert browser.execute_script("return document.querySelectorAll('summary').length") >= 3


def test_on_paper_nothing_is_cut_and_no_navigation_is_left(browser: Any, tmp_path: Path) -> None:
    show(browser, write_page(leaking(), tmp_path / "report.html"), 700)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        width, nav = browser.execute_script(
            "return [document.documentElement.scrollWidth,"
            " getComputedStyle(document.querySelector('nav')).display]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert width <= 700
    assert nav == "none"


def test_an_injected_script_would_not_run(browser: Any, tmp_path: Path) -> None:
    # The second wall: had the template failed to escape, the policy would still refuse.
    page = write_page(evaluation(), tmp_path / "report.html")
    planted = page.read_text(encoding="utf-8").replace(
        "</h1>", "</h1><script>document.title='owned'</script>", 1
    )
    page.write_text(planted, encoding="utf-8")
    show(browser, page, 1280)
    assert browser.title != "owned"
    page.write_text(planted.replace("Content-Security-Policy", "x-off", 1), encoding="utf-8")
    show(browser, page, 1280)
    assert browser.title == "owned"
