"""A headless Chromium that reaches no network, to open reports as a reader does: for tests and measurements."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver",)
HOW_TO_INSTALL = "make browser, or on Debian and Ubuntu: apt-get install chromium chromium-driver"
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
# Waits until the pictures of all cards in view are decoded; returns milliseconds since the page was asked for.
WAIT_FOR_PICTURES = """
const done = arguments[0];
const inView = (card) => {
  const box = card.getBoundingClientRect();
  return box.bottom > 0 && box.top < window.innerHeight;
};
const wait = async () => {
  for (;;) {
    const cards = [...document.querySelectorAll(".pair")].filter(inView);
    const images = cards.flatMap((card) => [...card.querySelectorAll("img")]);
    if (images.length && images.every((image) => image.complete && image.naturalWidth > 0)) {
      await Promise.all(images.map((image) => image.decode()));
      return performance.now();
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
wait().then(done);
"""


def explain_missing() -> str | None:
    """Says what a browser lacks here; None if nothing is missing."""
    try:
        import selenium  # noqa: F401 (not installed for users)
    except ModuleNotFoundError:
        return "selenium is not installed: pip install -e '.[dev]'"
    for kind, names in (("Chromium", BROWSERS), ("chromedriver", DRIVERS)):
        if not any(map(shutil.which, names)):
            return f"no {kind} found (looked for {', '.join(names)}): {HOW_TO_INSTALL}"
    return None


@contextmanager
def open_browser(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """Starts Chromium with a profile of its own and ends it after the ``with`` block.

    Args:
        width: Of the window's page, in pixels.
        height: Of the window's page, in pixels.

    Raises:
        FileNotFoundError: If there is no browser; says what to install.
    """
    missing = explain_missing()
    if missing is not None:
        raise FileNotFoundError(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = find_program(BROWSERS)
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(find_program(DRIVERS)))
        try:
            resize(driver, width, height)
            yield driver
        finally:
            driver.quit()


def find_program(names: tuple[str, ...]) -> str:
    """Returns the path of the first of these programs that is installed."""
    return next(path for path in map(shutil.which, names) if path)


def resize(driver: Any, width: int, height: int) -> None:
    """Sets the size of the page in pixels; narrow ones count as a telephone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def open_page(driver: Any, path: Path, fragment: str = "") -> None:
    """Opens a file, at a place in it if one is given."""
    driver.get(path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))


def list_requests(driver: Any) -> list[str]:
    """Returns the addresses of everything that was asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [message["params"]["request"]["url"] for message in sent]


def wait_for_pictures(driver: Any, seconds: float = 60) -> float:
    """Waits for the pictures in view; returns the milliseconds from asking for the page until they were decoded.

    Raises:
        selenium.common.exceptions.TimeoutException: If they are not there in time.
    """
    driver.set_script_timeout(seconds)
    return float(driver.execute_async_script(WAIT_FOR_PICTURES))
