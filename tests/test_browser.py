"""The report in a real browser that reaches no network: sliders, lazily loaded pictures, no errors."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callbacks.report.page import write_report
from callbacks.report.run_data import read_run
from tests.fake_results import CLASSES, make_search, write_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",  # the page jumps to its pictures: nothing moves under the pointer
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
INTO_VIEW = "arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})"

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
MISSING = "no Chromium or chromedriver found: make browser, or on Debian: apt-get install chromium chromium-driver"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("run"), images=12, size=(64, 128), first=6, names="a/<b>&{:02d}")
    (folder / "search.json").write_text(json.dumps(make_search("psi", "num_steps")), encoding="utf-8")
    return write_report(read_run(folder))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def set_size(driver: Any, width: int, height: int) -> None:
    """Sets the size of the page in pixels; narrow ones count as a telephone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait_until(driver: Any, check: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60, poll_frequency=0.02).until(lambda _: check())


def find(element: Any, selector: str) -> Any:
    return element.find_element("css selector", selector)


@pytest.fixture
def page(driver: Any, path: Path) -> Iterator[Any]:
    """The report, opened at its pictures; in the end nothing went wrong or was refused by its policy."""
    set_size(driver, 1280, 900)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(f"{path.as_uri()}#pictures")
    wait_until(driver, lambda: driver.execute_script(ARE_LOADED))
    yield driver
    assert driver.get_log("browser") == []


def test_pictures_are_loaded_when_they_come_into_view_and_not_before(page: Any) -> None:
    script = "return [...document.querySelectorAll('.pair')].map(card => [...card.querySelectorAll('img')].map("
    script += "image => image.naturalWidth))"
    widths = page.execute_script(script)
    assert widths[0] == [128, 128] and widths[-1] == [0, 0] and len(widths) == 2 * (6 + 3 + 3)
    cards = page.find_elements("css selector", ".pair")
    for card in cards:
        page.execute_script(INTO_VIEW, card)
        wait_until(page, lambda: page.execute_script(ARE_LOADED))
    assert page.execute_script(script) == len(widths) * [[128, 128]]
    assert "a/<b>&00" in [card.get_attribute("data-name") for card in cards]


def test_divider_moves_by_keyboard_and_by_pointer_and_changes_the_picture(page: Any) -> None:
    card = find(page, ".pair")
    frame, slider = find(card, ".frame"), find(card, "input[type=range]")
    pictures = [frame.screenshot_as_png]
    left = find(card, ".side.left")
    assert "50%" in left.value_of_css_property("clip-path")
    page.execute_script("arguments[0].focus()", slider)
    for keys, value, cut in ((webdriver.Keys.ARROW_RIGHT * 30, "80", "20%"), (webdriver.Keys.HOME, "0", "100%")):
        slider.send_keys(keys)
        assert slider.get_attribute("value") == value and cut in left.value_of_css_property("clip-path")
        pictures.append(frame.screenshot_as_png)
    assert len(set(pictures)) == 3
    actions = webdriver.ActionChains(page)
    actions.move_to_element(frame).click_and_hold().move_by_offset(-frame.size["width"] // 4, 0).release().perform()
    assert abs(int(slider.get_attribute("value")) - 25) <= 2


def test_touch_drags_the_divider(page: Any) -> None:
    set_size(page, 400, 800)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        card = find(page, ".pair")
        page.execute_script(INTO_VIEW, card)
        box = page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", find(card, ".frame"))
        for kind, share in (("touchStart", 0.5), ("touchMove", 0.65), ("touchMove", 0.8)):
            point = {"x": box["left"] + share * box["width"], "y": box["top"] + box["height"] / 2}
            page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert abs(int(find(card, "input[type=range]").get_attribute("value")) - 80) <= 3
    finally:
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_layers_are_chosen_for_one_picture_and_for_all(page: Any) -> None:
    from selenium.webdriver.support.select import Select

    def sources(card: Any) -> list[str]:
        return [find(card, f".side.{side} img").get_attribute("src") for side in ("left", "right")]

    first, second = page.find_elements("css selector", ".pair")[:2]
    layers = page.execute_script("return JSON.parse(document.getElementById('picture-1').textContent)")
    assert sources(first) == [layers["baseline"], layers["prediction"]]
    Select(find(first, "select.left")).select_by_visible_text("photo")
    assert sources(first) == [layers["image"], layers["prediction"]]
    assert find(first, ".side.left span").text == "photo"
    kept = sources(second)
    Select(find(page, "#all select.right")).select_by_visible_text("truth")
    assert sources(first) == [layers["image"], layers["truth"]] and sources(second)[0] == kept[0]
    assert sources(second)[1] != kept[1]
    frame = find(first, ".frame")
    plain = frame.screenshot_as_png
    page.find_element("id", "overlay").click()
    assert "data:image/jpeg" in frame.value_of_css_property("background-image") and frame.screenshot_as_png != plain


def test_pointing_tells_the_classes(page: Any) -> None:
    card = find(page, ".pair")
    frame = find(card, ".frame")
    page.execute_script(INTO_VIEW, card)

    def point_at(y: int) -> str:
        webdriver.ActionChains(page).move_to_element_with_offset(frame, 0, y).perform()
        return str(find(card, ".probe").text)

    top = 1 - frame.size["height"] // 2  # the rows that are ignored
    wait_until(page, lambda: point_at(top).startswith("truth: ignored · t-BN: "))
    wait_until(page, lambda: point_at(0) and "ignored" not in point_at(0))
    parts = dict(part.split(": ") for part in point_at(0).split(" · "))
    assert list(parts) == ["truth", "t-BN", "Seg-TTT"] and set(parts.values()) <= set(CLASSES)


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    set_size(page, width, 800)
    assert page.execute_script("return document.documentElement.scrollWidth") == width
    widths = page.execute_script(
        "return [...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert min(widths) > 250 and max(widths) <= width


def test_page_follows_the_colours_of_the_system(page: Any) -> None:
    seen = []
    for scheme in ("dark", "light"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        body, text = find(page, "body"), find(page, "svg text")
        seen.append((body.value_of_css_property("background-color"), text.value_of_css_property("fill")))
    assert seen == [("rgba(20, 23, 27, 1)", "rgb(228, 232, 236)"), ("rgba(246, 247, 249, 1)", "rgb(28, 33, 40)")]
