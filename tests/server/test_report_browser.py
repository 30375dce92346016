"""The report in a real browser: drawn, silent, offline, and no wider than the screen."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedward.server.report import build_report
from tests.server.chromium import headless
from tests.server.report_fixture import FakeRun, build_run
from tests.server.report_images import build_image_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium or chromedriver is missing: apt-get install chromium chromium-driver",
    ),
]
RUNS = {
    "usual": FakeRun(),
    "repeated": FakeRun(seeds=(1, 2, 3)),
    "without baselines": FakeRun(baselines=()),
    "failed": FakeRun(evaluated=False, baselines=(), stopped_by="quorum", num_rounds=4),
    "hostile": FakeRun(
        sites=(
            "<script>document.title='owned'</script>",
            "\"><img src=x onerror=document.title='owned'>",
            "Krankenhaus-der-sehr-langen-Namen-ohne-Leerzeichen-am-Ende-der-Welt",
        )
    ),
    "many": FakeRun(sites=tuple(f"site-{n:03d}" for n in range(200))),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from headless(CHROMIUM, DRIVER)


@pytest.fixture(scope="module", params=[*RUNS, "with images"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    if request.param == "with images":
        return build_report(build_image_run(folder))
    return build_report(build_run(folder, RUNS[request.param]))


def show(browser: Any, report: Path, width_px: int) -> None:
    """Open the report in a window of `width_px`; what was logged before is dropped."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600},
    )
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(report.as_uri())


def requests(browser: Any) -> list[str]:
    """Return the addresses that were asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


@pytest.mark.parametrize("width_px", [1280, 400])
def test_the_report_is_drawn_and_asks_for_nothing(
    browser: Any, report: Path, width_px: int
) -> None:
    show(browser, report, width_px)
    assert browser.get_log("browser") == []
    outside = [url for url in requests(browser) if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert "owned" not in browser.title
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('[data-chart]')]"
        ".filter(p => !p.closest('details:not([open])'))"
        ".map(p => p.querySelectorAll('.main-svg').length)"
    )
    assert drawn
    assert min(drawn) > 0


@pytest.mark.parametrize("width_px", [1280, 768, 400])
def test_no_part_is_wider_than_the_screen(browser: Any, report: Path, width_px: int) -> None:
    show(browser, report, width_px)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width_px
    too_wide = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre')"
        " && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert too_wide == []


@pytest.mark.parametrize("width_px", [1280, 400])
def test_pictures_of_cases_are_shown_in_their_proportions(
    browser: Any, tmp_path: Path, width_px: int
) -> None:
    show(browser, build_report(build_image_run(tmp_path)), width_px)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.cases img')]"
        ".map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])"
    )
    assert len(sizes) == 3
    for natural, width, height in sizes:
        assert natural == 890
        assert 250 < width < width_px
        assert width / height == pytest.approx(890 / 360, rel=0.02)


def test_folded_charts_are_drawn_when_opened(browser: Any, tmp_path: Path) -> None:
    show(browser, build_report(build_run(tmp_path)), 1280)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.set_script_timeout(10)
    drawn = browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done([...document.querySelectorAll("
        "'details [data-chart]')].map(p => p.querySelectorAll('.main-svg').length)), 1000)"
    )
    assert len(drawn) == 7
    assert min(drawn) > 0


def test_an_injected_script_would_not_run(browser: Any, tmp_path: Path) -> None:
    # The second wall: had the template failed to escape, the policy would still refuse.
    report = build_report(build_run(tmp_path))
    page = report.read_text(encoding="utf-8")
    planted = page.replace("</h1>", "</h1><script>document.title='owned'</script>", 1)
    report.write_text(planted, encoding="utf-8")
    show(browser, report, 1280)
    assert browser.title != "owned"
    report.write_text(planted.replace("Content-Security-Policy", "x-off", 1), encoding="utf-8")
    show(browser, report, 1280)
    assert browser.title == "owned"
