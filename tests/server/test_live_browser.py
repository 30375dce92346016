"""The live page in a real browser, beside a real run: it follows, stays silent and offline."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.chromium import headless
from tests.server.live_stand import GrowingRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FEDWARD = shutil.which("fedward", path=str(Path(sys.executable).parent)) or "fedward"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium or chromedriver is missing: apt-get install chromium chromium-driver",
    ),
]
WAIT_S = 120.0
RUN = """\
version: 1
name: watched
seed: 3
task: ehr-classification
data:
  root: builtin
  schema: breast-cancer
  partition: {table: breast-cancer, by: iid, num_sites: 3}
model: {name: mlp, hidden: [24, 24]}
strategy: {name: fedavg}
rounds: 5000
local: {epochs: 12, batch_size: 8, optimizer: sgd, learning_rate: 0.05}
monitor:
  cme: {layers: all, maps: true}
engine: {name: inprocess}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from headless(CHROMIUM, DRIVER, reachable="127.0.0.1")


class Started:
    """A command in a process of its own, ended with the test."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = folder / f"{words[0]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [FEDWARD, *words],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


def until(found: Callable[[], Any], what: str) -> Any:
    """Return the first answer that is something, or fail with `what` was waited for."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        answer = found()
        if answer:
            return answer
        time.sleep(0.2)
    pytest.fail(f"waited {WAIT_S:g} s for {what}")


def monitor(folder: Path, *words: str) -> tuple[Started, str]:
    """Start the page and return it with its address."""
    page = Started(folder, "monitor", *words, "--port", "0", "--interval", "0.5")
    found = until(
        lambda: re.search(r"http://127\.0\.0\.1:\d+/", page.text()) or page.process.poll(),
        "the page's address",
    )
    assert isinstance(found, re.Match), page.text()
    return page, found[0]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of the page of a run that goes on."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "watched.yaml").write_text(RUN, encoding="utf-8")
    run = Started(folder, "simulate", "watched.yaml")
    try:
        until(lambda: list(folder.glob("runs/*/history.jsonl")) or run.process.poll(), "a round")
        assert run.process.poll() is None, run.text()
        page, address = monitor(folder, "latest")
        try:
            yield address
        finally:
            page.end()
    finally:
        run.end()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of the page of a run in which everything happened, and that is over."""
    folder = tmp_path_factory.mktemp("still")
    run = GrowingRun(folder / "run", num_rounds=12)
    for number in range(1, 13):
        run.round(number, refused="south" if number % 5 == 2 else None)
    (run.folder / "summary.json").write_text('{"stopped_by": "saturation"}', encoding="utf-8")
    page, address = monitor(folder, "run")
    yield address
    page.end()


def show(browser: Any, address: str, width_px: int) -> None:
    """Open the page in a window of `width_px`, and wait until its maps are drawn."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 600},
    )
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    until(lambda: ask(browser, "document.querySelectorAll('#maps .main-svg').length"), "maps")


def ask(browser: Any, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def slider(browser: Any) -> Any:
    return browser.find_element("css selector", "[role=slider]")


def newest(browser: Any) -> int:
    return int(slider(browser).get_attribute("aria-valuemax"))


def words(browser: Any) -> str:
    return str(ask(browser, "document.getElementById('round-words').textContent"))


def silent_and_offline(browser: Any, address: str) -> None:
    """Check that nothing was complained about, and nobody else was asked for anything."""
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith(address) for url in asked)
    allowed = (address, "data:", "blob:", "about:")
    assert [url[:80] for url in asked if not url.startswith(allowed)] == []


@pytest.mark.parametrize("width_px", [1280, 400])
def test_it_follows_a_run_and_the_slider_is_moved_by_keyboard(
    browser: Any, live: str, width_px: int
) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    show(browser, live, width_px)
    before = newest(browser)
    until(lambda: newest(browser) > before + 1, "a new round")
    until(lambda: words(browser).endswith("the newest."), "the newest map")
    assert "running" in ask(browser, "document.getElementById('state').textContent")
    slider(browser).send_keys(keys.HOME)
    until(lambda: words(browser).startswith("Round 1; the newest is round"), "the first map")
    assert not ask(browser, "document.querySelector('#follow input').checked")
    slider(browser).send_keys(keys.ARROW_RIGHT)
    until(lambda: words(browser).startswith("Round 2;"), "the second map")
    before = newest(browser)
    until(lambda: newest(browser) > before, "a new round")
    assert words(browser).startswith("Round 2;")
    slider(browser).send_keys(keys.END)
    until(lambda: words(browser).endswith("the newest."), "the newest map")
    assert ask(browser, "document.querySelector('#follow input').checked")
    silent_and_offline(browser, live)


@pytest.mark.parametrize("width_px", [1280, 768, 400])
def test_no_part_is_wider_than_the_screen(browser: Any, still: str, width_px: int) -> None:
    show(browser, still, width_px)
    until(lambda: ask(browser, "document.querySelectorAll('#cost .main-svg').length"), "charts")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    time.sleep(1.0)
    assert ask(browser, "document.documentElement.scrollWidth") <= width_px
    too_wide = ask(
        browser,
        "[...document.querySelectorAll('header *, main *')].filter(e => !e.closest('.scroll, pre')"
        " && !e.closest('svg') && !e.matches('.skip')"
        " && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 200))",
    )
    assert too_wide == []
    silent_and_offline(browser, still)


def test_it_is_named_and_ordered_for_screen_readers(browser: Any, still: str) -> None:
    show(browser, still, 1280)
    until(lambda: slider(browser).accessible_name == "Round", "the slider's name")
    levels = ask(
        browser,
        "[...document.querySelectorAll('h1, h2, h3')].filter(e => e.offsetParent)"
        ".map(e => Number(e.tagName[1]))",
    )
    assert levels[0] == 1
    assert max(after - before for before, after in itertools.pairwise(levels)) == 1
    assert ask(browser, "document.documentElement.lang") == "en"
    pictures = browser.find_elements("css selector", "figure [role=img]")
    drawn = [picture for picture in pictures if picture.is_displayed()]
    assert drawn
    assert all(picture.accessible_name for picture in drawn)
    named = [
        (one.get_attribute("type"), one.accessible_name)
        for one in browser.find_elements("css selector", "main input")
        if one.is_displayed()
    ]
    assert ("checkbox", "Follow the newest round") in named
    assert [kind for kind, name in named if not name] == []
    assert "ended early" in ask(browser, "document.querySelector('[role=status]').textContent")


def test_every_control_can_be_reached_with_the_tab_key(browser: Any, still: str) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    show(browser, still, 1280)
    body = browser.find_element("css selector", "body")
    reached = set()
    for _ in range(60):
        browser.switch_to.active_element.send_keys(keys.TAB)
        focus = browser.switch_to.active_element
        reached.add(focus.get_attribute("role") or focus.get_attribute("type") or focus.tag_name)
        if focus == body:
            break
    assert {"slider", "radio", "checkbox", "a", "summary", "region"} <= reached


def test_an_injected_script_would_not_run(browser: Any, still: str) -> None:
    show(browser, still, 1280)
    title = browser.title
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title='owned'\";"
        "document.body.append(s)"
    )
    assert browser.title == title
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )


def test_it_says_when_the_program_behind_it_has_ended(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run")
    run.round(1)
    page, address = monitor(tmp_path, "run")
    try:
        show(browser, address, 1280)
        assert ask(browser, "document.getElementById('lost').hidden")
    finally:
        page.end()
    until(lambda: not ask(browser, "document.getElementById('lost').hidden"), "the banner")
    assert "no answer" in ask(browser, "document.getElementById('lost').textContent").lower()
