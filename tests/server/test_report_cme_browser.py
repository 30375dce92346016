"""Monitoring in a real browser: sliders by keyboard, no errors, no wider than the screen."""

# ruff: noqa: F811 - an imported fixture is no redefinition

from pathlib import Path
from typing import Any

import pytest

from fedward.server.report import build_report
from tests.server.report_cme_fixture import Watched, build_watched
from tests.server.report_fixture import FakeRun
from tests.server.test_report_browser import (  # noqa: F401 - `browser` is a fixture
    browser,
    pytestmark,
    requests,
    show,
)

OPEN_ALL = "document.querySelectorAll('#monitoring details').forEach(d => d.open = true)"
MAPS = "document.querySelector('[data-chart=maps-1]')"
SLIDER = "document.querySelector('[data-slides=maps-1]')"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(build_watched(tmp_path_factory.mktemp("run")))


def press(browser: Any, key: str) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    browser.find_element("css selector", "[data-slides=maps-1]").send_keys(getattr(keys, key))


def round_shown(browser: Any) -> str:
    script = f"return {SLIDER}.parentElement.querySelector('output').textContent"
    return str(browser.execute_script(script))


def titles(browser: Any) -> list[str]:
    found = f"{MAPS}.querySelectorAll('.infolayer [class^=x][class$=title]')"
    script = f"return [...{found}].map(title => title.textContent)"
    return [str(title) for title in browser.execute_script(script)]


def picture(browser: Any) -> str:
    """Return the first map as the browser painted it."""
    return str(
        browser.execute_script(f"return {MAPS}.querySelector('.hm image').getAttribute('href')")
    )


@pytest.mark.parametrize("width_px", [1280, 400])
def test_the_slider_shows_other_rounds_by_keyboard(
    browser: Any,
    report: Path,
    width_px: int,
) -> None:
    show(browser, report, width_px)
    assert round_shown(browser) == "14"
    last = picture(browser)
    press(browser, "ARROW_LEFT")
    assert round_shown(browser) == "13"
    assert browser.execute_script(f"return {SLIDER}.getAttribute('aria-valuetext')") == "round 13"
    assert picture(browser) != last
    press(browser, "HOME")
    for _ in range(4):
        press(browser, "ARROW_RIGHT")
    assert round_shown(browser) == "5"
    assert sorted(titles(browser)) == [
        "cleveland", "hungarian no map", "switzerland", "va-long-beach",
    ]  # fmt: skip
    press(browser, "END")
    assert picture(browser) == last
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width_px", [1280, 400])
def test_all_that_is_folded_is_drawn_and_fits(
    browser: Any,
    report: Path,
    width_px: int,
) -> None:
    show(browser, report, width_px)
    browser.execute_script(OPEN_ALL)
    browser.set_script_timeout(20)
    drawn = browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done([...document.querySelectorAll("
        "'#monitoring [data-chart]')].map(p => p.querySelectorAll('.main-svg').length)), 2000)"
    )
    assert len(drawn) == 18
    assert min(drawn) > 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width_px
    cut = browser.execute_script(
        "return [...document.querySelectorAll('#monitoring [data-chart] svg text')].filter(t => {"
        " const box = t.getBoundingClientRect();"
        " return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1); })"
        ".map(t => t.textContent)"
    )
    assert cut == []
    outside = [url for url in requests(browser) if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert browser.get_log("browser") == []


def test_maps_are_square_and_two_beside_each_other_on_a_phone(
    browser: Any,
    report: Path,
) -> None:
    for width_px, columns in ((1280, 4), (400, 2)):
        show(browser, report, width_px)
        boxes = browser.execute_script(
            f"return [...{MAPS}.querySelectorAll('.hm image')].map(i => i.getBoundingClientRect())"
            ".map(b => [b.left, b.width, b.height])"
        )
        assert len(boxes) == 4
        assert len({round(left) for left, _, _ in boxes}) == columns
        for _, width, height in boxes:
            assert width > 120
            assert width == pytest.approx(height, rel=0.03)


def test_many_sites_and_hostile_names_are_drawn_without_a_word_of_error(
    browser: Any,
    tmp_path: Path,
) -> None:
    hostile = (
        "<script>document.title='owned'</script>",
        "Krankenhaus-ohne-jedes-Leerzeichen-am-Ende",
    )
    sites = (*hostile, *(f"site-{n:02d}" for n in range(28)))
    layers = ("net.0.weight", "<img src=x onerror=document.title='owned'>")
    run = FakeRun(sites=sites, num_rounds=4, one_class_site=None, baselines=())
    build_watched(tmp_path, Watched(run=run, layers=layers, num_neurons=8, maps=False))
    report = build_report(tmp_path)
    for width_px in (1280, 400):
        show(browser, report, width_px)
        browser.execute_script(OPEN_ALL)
        assert browser.title == "heart-disease – fedward report"
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width_px
        assert browser.get_log("browser") == []
