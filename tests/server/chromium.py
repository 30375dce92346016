"""A headless Chromium that reaches no host but those it is allowed, and keeps a log of requests."""

from collections.abc import Iterator
from typing import Any

import pytest


def headless(binary: str | None, driver: str | None, *, reachable: str = "") -> Iterator[Any]:
    """Yield a selenium driver, and end it afterwards; the test is skipped without selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    hosts = f", EXCLUDE {reachable}" if reachable else ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--host-resolver-rules=MAP * ~NOTFOUND{hosts}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
