"""A headless Chromium for tests of what people look at; they skip where there is none (Debian: chromium, chromium-driver)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 300  # a busy machine draws slowly
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server", "--enable-unsafe-swiftshader",
)  # fmt: skip


def open_browser() -> Any:
    """A browser that keeps its console and its requests; skips the test where this machine has none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(PATIENCE_S)  # one chart may take long to draw
    return browser


def show(browser: Any, page: Path | str, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
    """Opens a page in a window of this size, a phone's as well: Chromium's own windows are never so narrow."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = "dark" if dark else "light"
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(page.resolve().as_uri() if isinstance(page, Path) else page)


def wait(browser: Any, script: str) -> Any:
    """What a script returns once that is something."""
    return WebDriverWait(browser, PATIENCE_S).until(lambda driver: driver.execute_script(script))


def complaints(browser: Any) -> list[str]:
    """The errors on the page's console since the last time (warnings are the browser's own, of drawing without a GPU)."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requests(browser: Any) -> list[str]:
    """The addresses that the page has asked for since the last time."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
