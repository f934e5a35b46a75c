"""A headless Chromium that reaches no network, to open reports as a reader does."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = [
    text
    for text, found in {
        "selenium is not installed: pip install -e '.[dev]'": importlib.util.find_spec("selenium"),
        "no Chromium found: make browser, or on Debian and Ubuntu: apt-get install chromium": CHROMIUM,
        "no chromedriver found: make browser, or on Debian and Ubuntu: apt-get install chromium-driver": DRIVER,
    }.items()
    if not found
]
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name is found, whatever a page asks for
)
ARE_LOADED = """
const isInView = (card) => {
  const box = card.getBoundingClientRect();
  return box.bottom > 0 && box.top < window.innerHeight;
};
const images = [...document.querySelectorAll(".pair")].filter(isInView).flatMap((c) => [...c.querySelectorAll("img")]);
return images.length > 0 && images.every((image) => image.complete && image.naturalWidth > 0);
"""


@contextmanager
def open_browser() -> Iterator[Any]:
    """Starts Chromium with a profile of its own and ends it after the ``with`` block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def set_size(driver: Any, width: int, height: int) -> None:
    """Sets the size of the page in pixels; narrow ones count as a telephone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(driver: Any, path: Path, fragment: str) -> None:
    """Opens a file, at a place in it."""
    driver.get(f"{path.resolve().as_uri()}#{fragment}")


def list_requests(driver: Any) -> list[str]:
    """Returns the addresses of everything that was asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [message["params"]["request"]["url"] for message in sent]


def wait_for_pictures(driver: Any) -> None:
    """Waits for the pictures of the cards in view."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60, poll_frequency=0.02).until(lambda _: driver.execute_script(ARE_LOADED))
