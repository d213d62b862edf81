"""The page in a real browser: controls move the picture, by mouse and by keyboard, and nothing is said on the console."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from dni_deploy.alpha.timeline import AlphaTimeline
from tests.dni_deploy.webui.page_server import TOKEN, MovingSource, PageFixture, photograph, serve_page
from tests.support.browser import CHROMIUM, FLAGS

ASK = "document.getElementById('picture').dataset"
MEAN = """(() => { const canvas = document.getElementById('picture'), copy = new OffscreenCanvas(canvas.width, canvas.height);
const room = copy.getContext('2d', {willReadFrequently: true}); room.drawImage(canvas, 0, 0);
const data = room.getImageData(0, 0, copy.width, copy.height).data;
let sum = 0; for (let place = 0; place < data.length; place += 4) sum += data[place]; return sum * 4 / data.length; })()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield started
        started.close()


class Tab:
    """A page of the browser that remembers everything that went wrong in it."""

    def __init__(self, browser: Any, live: PageFixture, width: int = 1280, scheme: str = "light", more: str = "") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, accept_downloads=True)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on(
            "request", lambda request: self.outside.append(request.url) if not request.url.startswith(live.origin) else None
        )
        self.page.goto(live.page.url + more)
        self.until("dni.frames > 0")

    def until(self, expression: str, seconds: float = 8.0) -> None:
        """Wait by asking; the page's own policy forbids what playwright's wait_for_function does."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"{expression}: {self.page.evaluate('JSON.stringify(dni)')} {self.problems}"
            self.page.wait_for_timeout(10)

    def shares(self, *shares: float) -> None:
        """Wait for the picture that is stamped with these."""
        wanted = " ".join(f"{share:.3f}" for share in shares)
        self.until(f"{ASK}.shares === '{wanted}'")

    def close(self) -> None:
        assert self.problems == []
        assert [url for url in self.outside if not url.startswith(("data:", "blob:"))] == []
        self.page.close()


def test_the_slider_by_mouse_and_by_keyboard(browser: Any) -> None:
    with serve_page(2) as live:
        tab = Tab(browser, live)
        page = tab.page
        assert TOKEN not in page.url  # it left the address bar
        assert page.evaluate(MEAN) == pytest.approx(200, abs=1.5)
        slider = page.get_by_label("alpha, the share of bright")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        tab.shares(0.99, 0.01)
        page.keyboard.press("Home")
        tab.shares(0.0, 1.0)
        assert page.evaluate(MEAN) == pytest.approx(40, abs=1.5)  # a fifth of 200, through JPEG
        assert slider.get_attribute("aria-valuetext") == "bright 0.00, dark 1.00"
        assert page.locator("#told").inner_text() == "bright 0.00 · dark 1.00"
        box = slider.bounding_box()
        page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        tab.until(f"Math.abs(parseFloat({ASK}.shares) - 0.5) < 0.03")
        assert page.evaluate(MEAN) == pytest.approx(120, abs=6)
        assert page.evaluate("dni.latencies.length") >= 3
        tab.until("document.getElementById('said').textContent.startsWith('bright 0.')")  # politely, when it has settled
        live.shared_alpha.set_alpha({"bright": 0.25, "dark": 0.75}, "osc")  # somebody else moves it
        tab.shares(0.25, 0.75)
        tab.until("document.getElementById('alpha').value === '0.25'")
        tab.close()


def test_a_slider_with_even_steps(browser: Any) -> None:
    """The knob stands at the position, alpha is told beside, and both follow what somebody else sets."""
    with serve_page(2, slider=[[0.0, 0.0], [0.2, 0.5], [0.7, 0.6], [1.0, 1.0]]) as live:
        tab = Tab(browser, live)
        slider = tab.page.get_by_label("even steps to the eye, towards bright")
        slider.focus()
        tab.page.keyboard.press("Home")
        tab.shares(0.0, 1.0)
        for _ in range(10):
            tab.page.keyboard.press("ArrowRight")
        tab.shares(0.25, 0.75)  # position 0.1 is halfway to the first knot
        assert tab.page.locator("#alpha-number").inner_text().strip() == "alpha 0.250"
        assert slider.get_attribute("aria-valuetext") == "bright 0.25, dark 0.75"
        live.shared_alpha.set_alpha({"bright": 0.8, "dark": 0.2}, "osc")
        tab.shares(0.8, 0.2)
        tab.until("document.getElementById('alpha').value === '0.85'")
        tab.page.keyboard.press("End")
        tab.shares(1.0, 0.0)
        tab.close()


def test_the_pad_and_the_sliders_of_more_members(browser: Any) -> None:
    with serve_page(4) as live:
        tab = Tab(browser, live, 390, "dark")
        pad = tab.page.get_by_role("slider", name="Control plane")
        pad.focus()
        tab.page.keyboard.press("Shift+ArrowRight")
        tab.shares(0.9, 0.1, 0.0, 0.0)
        tab.page.keyboard.press("ArrowDown")
        tab.shares(0.882, 0.098, 0.018, 0.002)
        box = pad.bounding_box()
        tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.until(f"{ASK}.shares.split(' ').every(share => Math.abs(share - 0.25) < 0.01)")
        tab.page.get_by_text("One slider for each member").click()
        tab.page.get_by_label("dim", exact=True).fill("1")
        tab.shares(0.0, 0.0, 0.0, 1.0)
        tab.close()
    with serve_page(5) as live:
        tab = Tab(browser, live)
        tab.page.get_by_label("faint", exact=True).fill("0.5")
        tab.shares(0.5, 0.0, 0.0, 0.0, 0.5)
        tab.close()


def test_keyframes_are_recorded_played_and_exported(browser: Any, tmp_path: Path) -> None:
    with serve_page(2) as live:
        tab = Tab(browser, live)
        page = tab.page
        slider = page.get_by_label("alpha, the share of bright")
        page.keyboard.press("r")
        assert page.locator("#record").get_attribute("aria-pressed") == "true"
        for share in (0.75, 0.25):
            page.wait_for_timeout(150)
            slider.fill(str(share))
            tab.shares(share, 1 - share)
        page.keyboard.press("r")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as JSON").click()
        place = tmp_path / "alpha.json"
        download.value.save_as(place)
        timeline = AlphaTimeline.read(place, ("bright", "dark"))
        shares = [tuple(row) for row in timeline.coefficients.tolist()]
        assert shares[0] == (1.0, 0.0)
        assert shares[-1] == (0.25, 0.75)
        assert (0.75, 0.25) in shares
        live.shared_alpha.set_alpha({"bright": 1.0}, "test")
        tab.shares(1.0, 0.0)
        page.keyboard.press("p")
        tab.shares(0.75, 0.25)
        tab.shares(0.25, 0.75)
        tab.until("document.getElementById('play').getAttribute('aria-pressed') === 'false'")
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async text => { window.copied = text; }}})"
        )
        page.get_by_role("button", name="Copy as text").click()
        tab.until("window.copied")
        copied = AlphaTimeline.parse(page.evaluate("copied"), ("bright", "dark"))
        assert copied.to_json() == json.loads(json.dumps(timeline.to_json()))
        tab.close()


def test_views_pause_and_an_uploaded_image(browser: Any, tmp_path: Path) -> None:
    with serve_page(2, MovingSource(60, photograph(96, 54))) as live:
        tab = Tab(browser, live)
        page = tab.page
        page.get_by_label("before and after").check()
        tab.until("document.getElementById('before').width === 96")
        page.get_by_label("Show the frame before").fill("20")
        assert "20%" in page.evaluate("document.getElementById('stage').style.cssText")
        box = page.locator("#drop").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
        assert page.locator("#cut").input_value() == "70"
        page.keyboard.press("v")
        tab.until("document.getElementById('pixels').width === 96")
        page.keyboard.press("Escape")
        page.keyboard.press("Space")
        tab.until("document.getElementById('hold').getAttribute('aria-pressed') === 'true'")
        held = page.evaluate("dni.frame")
        page.wait_for_timeout(200)
        assert page.evaluate("dni.frame") - held <= 2  # what was under way
        from PIL import Image

        Image.new("RGB", (32, 48), (90, 90, 90)).save(tmp_path / "own.png")
        page.locator("#file").set_input_files(tmp_path / "own.png")
        tab.until("document.getElementById('picture').width === 32")
        assert "your image" in page.locator("#source").inner_text()
        (tmp_path / "bad.png").write_text("<script>alert(1)</script>")
        tab.problems.clear()
        page.locator("#file").set_input_files(tmp_path / "bad.png")
        tab.until("!document.getElementById('problem').hidden")
        assert "PNG" in page.locator("#problem").inner_text()
        tab.problems = [problem for problem in tab.problems if "400 (Bad Request)" not in problem]  # the browser's own line
        tab.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_every_control_has_a_name(browser: Any, width: int, scheme: str, tmp_path: Path) -> None:
    with serve_page(2, MovingSource(30, photograph())) as live:
        tab = Tab(browser, live, width, scheme)
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.page.screenshot(path=tmp_path / "page.png", full_page=True)
        nameless = """[...document.querySelectorAll('input, button')].filter(one => !one.hidden &&
            !(one.labels && one.labels.length && one.labels[0].textContent.trim()) && !one.textContent.trim()).map(one => one.id)"""
        assert tab.page.evaluate(nameless) == []
        tab.close()
        if width == 1280:
            clean = Tab(browser, live, width, scheme, "&view=clean")
            assert clean.page.locator("button:visible, input:visible, h1:visible, section:visible").count() == 0
            assert clean.page.locator("#picture").bounding_box()["height"] == 844
            clean.close()
