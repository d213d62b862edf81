"""The page in a real browser: controls change the frame by mouse and by keyboard, and the console stays empty."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.network_controls import Control
from dni_deploy.webui import renderer
from dni_deploy.webui.sources import open_frame_source
from tests.dni_deploy.webui.page_server import SIZE, TOKEN, MovingSource, PageFixture, photograph, serve_page
from tests.dni_deploy.webui.test_video_source import write_video

ASK = "document.getElementById('picture').dataset"
MEAN = """(() => { const canvas = document.getElementById('picture'), copy = new OffscreenCanvas(canvas.width, canvas.height);
const room = copy.getContext('2d', {willReadFrequently: true}); room.drawImage(canvas, 0, 0);
const data = room.getImageData(0, 0, copy.width, copy.height).data;
let sum = 0; for (let place = 0; place < data.length; place += 4) sum += data[place]; return sum * 4 / data.length; })()"""


class Tab:
    """A browser page that records every error in it."""

    def __init__(self, browser: Any, live: PageFixture, width: int = 1280, scheme: str = "light", script: str = "") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, accept_downloads=True)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on(
            "request", lambda request: self.outside.append(request.url) if not request.url.startswith(live.origin) else None
        )
        self.page.goto(live.page.url + script)
        self.until("dni.frames > 0")

    def until(self, expression: str, seconds: float = 8.0) -> None:
        """Waits by polling; the page's content security policy forbids playwright's wait_for_function."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"{expression}: {self.page.evaluate('JSON.stringify(dni)')} {self.problems}"
            self.page.wait_for_timeout(10)

    def wait_for_coefficients(self, *coefficients: float) -> None:
        """Waits for the frame with these coefficients."""
        expected = " ".join(f"{coefficient:.3f}" for coefficient in coefficients)
        self.until(f"{ASK}.shares === '{expected}'")

    def close(self) -> None:
        assert self.problems == []
        assert [url for url in self.outside if not url.startswith(("data:", "blob:"))] == []
        self.page.close()


def test_the_slider_works_by_mouse_and_keyboard(browser: Any) -> None:
    with serve_page(2) as live:
        tab = Tab(browser, live)
        page = tab.page
        assert TOKEN not in page.url  # it was removed from the address bar
        assert page.evaluate(MEAN) == pytest.approx(200, abs=1.5)
        slider = page.get_by_label("alpha, the share of bright")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        tab.wait_for_coefficients(0.99, 0.01)
        page.keyboard.press("Home")
        tab.wait_for_coefficients(0.0, 1.0)
        assert page.evaluate(MEAN) == pytest.approx(40, abs=1.5)  # a fifth of 200, through JPEG
        assert slider.get_attribute("aria-valuetext") == "bright 0.00, dark 1.00"
        assert page.locator("#coefficients").inner_text() == "bright 0.00 · dark 1.00"
        box = slider.bounding_box()
        page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        tab.until(f"Math.abs(parseFloat({ASK}.shares) - 0.5) < 0.03")
        assert page.evaluate(MEAN) == pytest.approx(120, abs=6)
        assert page.evaluate("dni.latencies.length") >= 3
        tab.until(
            "document.getElementById('said').textContent.startsWith('bright 0.')"
        )  # a polite live region, after the value settled
        live.shared_alpha.set_alpha({"bright": 0.25, "dark": 0.75}, "osc")  # another client changes it
        tab.wait_for_coefficients(0.25, 0.75)
        tab.until("document.getElementById('alpha').value === '0.25'")
        tab.close()


def test_a_slow_frame_moves_no_control_back(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that was begun before the last press arrives long after it."""
    encode = renderer.encode_jpeg
    monkeypatch.setattr(renderer, "encode_jpeg", lambda frame, quality: (time.sleep(0.8), encode(frame, quality))[1])
    with serve_page(2) as live:
        tab = Tab(browser, live)
        tab.page.get_by_label("alpha, the share of bright").focus()
        tab.page.keyboard.press("ArrowLeft")
        tab.page.wait_for_timeout(100)
        tab.page.keyboard.press("ArrowLeft")
        tab.wait_for_coefficients(0.99, 0.01)
        assert tab.page.get_by_label("alpha, the share of bright").input_value() == "0.98"
        tab.page.keyboard.press("ArrowLeft")
        tab.wait_for_coefficients(0.97, 0.03)
        tab.until("document.getElementById('said').textContent === 'bright 0.97, dark 0.03'")
        tab.close()


@pytest.mark.slow
def test_a_control_of_the_network_moves_the_frame(browser: Any) -> None:
    with serve_page(2, controls=(Control("gain", 0.0, 2.0, 1.0),)) as live:
        tab = Tab(browser, live)
        assert tab.page.evaluate("document.getElementById('network-controls').hidden") is False
        before = tab.page.evaluate(MEAN)
        slider = tab.page.get_by_label("gain")
        slider.fill("0.5")
        tab.until(f"Math.abs({MEAN} - {before} / 2) < 3")  # half as bright, within JPEG's rounding
        assert live.shared_alpha.state.controls == {"gain": 0.5}
        live.shared_alpha.set_controls({"gain": 1.0}, "OSC")
        tab.until("document.getElementById('network-0').value === '1'")
        tab.until(f"Math.abs({MEAN} - {before}) < 3")
        tab.close()


@pytest.mark.slow
def test_the_perceptual_slider_shows_position_and_alpha(browser: Any) -> None:
    """The slider shows the position, the shares are displayed below it, and both follow changes by others."""
    with serve_page(2, slider=[[0.0, 0.0], [0.2, 0.5], [0.7, 0.6], [1.0, 1.0]]) as live:
        tab = Tab(browser, live)
        slider = tab.page.get_by_label("even steps to the eye, towards bright")
        slider.focus()
        tab.page.keyboard.press("Home")
        tab.wait_for_coefficients(0.0, 1.0)
        for _ in range(10):
            tab.page.keyboard.press("ArrowRight")
        tab.wait_for_coefficients(0.25, 0.75)  # position 0.1 is halfway to the first slider point
        assert tab.page.locator("#alpha-number").inner_text().strip() == "position 0.10"
        assert slider.get_attribute("aria-valuetext") == "bright 0.25, dark 0.75"
        live.shared_alpha.set_alpha({"bright": 0.8, "dark": 0.2}, "osc")
        tab.wait_for_coefficients(0.8, 0.2)
        tab.until("document.getElementById('alpha').value === '0.85'")
        tab.page.keyboard.press("End")
        tab.wait_for_coefficients(1.0, 0.0)
        tab.close()


@pytest.mark.slow
def test_the_pad_and_the_member_sliders_set_alpha(browser: Any) -> None:
    with serve_page(4) as live:
        tab = Tab(browser, live, 390, "dark")
        pad = tab.page.get_by_role("slider", name="Control plane")
        pad.focus()
        tab.page.keyboard.press("Shift+ArrowRight")
        tab.wait_for_coefficients(0.9, 0.1, 0.0, 0.0)
        tab.page.keyboard.press("ArrowDown")
        tab.wait_for_coefficients(0.882, 0.098, 0.018, 0.002)
        pad.click()  # in its middle, once the layout rests
        tab.until(f"{ASK}.shares.split(' ').every(share => Math.abs(share - 0.25) < 0.01)")
        path = tab.page.get_by_label("path through all members")
        path.fill("0.5")  # halfway between the second and the third of four
        tab.wait_for_coefficients(0.0, 0.5, 0.5, 0.0)
        assert "0.00" in path.get_attribute("aria-valuetext")
        path.focus()
        tab.page.keyboard.press("End")
        tab.wait_for_coefficients(0.0, 0.0, 0.0, 1.0)
        live.shared_alpha.set_alpha([0.0, 0.75, 0.25, 0.0], "osc")
        tab.wait_for_coefficients(0.0, 0.75, 0.25, 0.0)
        tab.until("document.getElementById('path').value === '0.42'")  # 1.25 of 3 steps, in hundredths
        tab.page.get_by_text("One slider for each member").click()
        tab.page.get_by_label("dim", exact=True).fill("1")
        tab.wait_for_coefficients(0.0, 0.0, 0.0, 1.0)
        tab.close()
    with serve_page(5) as live:
        tab = Tab(browser, live)
        tab.page.get_by_label("faint", exact=True).fill("0.5")
        tab.wait_for_coefficients(0.5, 0.0, 0.0, 0.0, 0.5)
        tab.page.get_by_label("path through all members").fill("0.25")
        tab.wait_for_coefficients(0.0, 1.0, 0.0, 0.0, 0.0)
        tab.close()


@pytest.mark.slow
def test_a_take_is_recorded_played_and_exported(browser: Any, tmp_path: Path) -> None:
    with serve_page(2) as live:
        tab = Tab(browser, live)
        page = tab.page
        slider = page.get_by_label("alpha, the share of bright")
        page.keyboard.press("r")
        tab.until("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
        page.wait_for_timeout(100)
        slider.focus()
        page.keyboard.press("Home")
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("r")
        tab.until("document.getElementById('record').getAttribute('aria-pressed') === 'false'")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as JSON").click()
        path = tmp_path / "alpha.json"
        download.value.save_as(path)
        timeline = AlphaTimeline.read(path, ("bright", "dark"))
        shares = [row[0] for row in timeline.coefficients.tolist()]
        assert shares == [1.0, *[step / 100 for step in range(11)], 0.1]  # every press, though it came faster than frames
        assert timeline.interpolation == "hold"
        live.shared_alpha.set_alpha({"bright": 1.0}, "test")
        tab.wait_for_coefficients(1.0, 0.0)
        page.keyboard.press("p")
        tab.wait_for_coefficients(0.1, 0.9)
        tab.until("document.getElementById('play').getAttribute('aria-pressed') === 'false'")
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async text => { window.copied = text; }}})"
        )
        page.get_by_role("button", name="Copy as text").click()
        tab.until("window.copied")
        copied = AlphaTimeline.parse(page.evaluate("copied"), ("bright", "dark"))
        assert copied.to_json() == json.loads(json.dumps(timeline.to_json()))
        page.locator("#copy-take").click()
        tab.until("window.copied.startsWith('dni-deploy video dimmer.dni in.mp4 -o in-dni.mkv --alpha ')")
        assert page.locator("#take-command").inner_text() == page.evaluate("copied")
        page.locator("#copy-setting").click()
        tab.until("window.copied === 'dni-deploy run dimmer.dni in.png -o in-dni.png --alpha 0.1'")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save picture").click()
        assert download.value.suggested_filename == "picture bright-0.10 dark-0.90.png"
        download.value.save_as(tmp_path / "picture.png")
        from PIL import Image

        with Image.open(tmp_path / "picture.png") as image:
            assert image.getpixel((3, 3)) == (56, 56, 56)  # 200 * (0.1 + 0.9 * 0.2), without JPEG's errors
        tab.close()


@pytest.mark.slow
def test_a_take_of_a_video_has_its_frames(browser: Any, tmp_path: Path) -> None:
    """Ten presses in a second, Stop 0.3 s later: the last one is in the take, and each has a frame of the video."""
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_video(tmp_path / "film.mkv", 100)
    with serve_page(2, open_frame_source(tmp_path / "film.mkv", SIZE)) as live:
        live.shared_alpha.set_alpha(0.5, "test")
        tab = Tab(browser, live)
        page = tab.page
        tab.wait_for_coefficients(0.5, 0.5)
        page.keyboard.press("r")
        page.get_by_label("alpha, the share of bright").focus()
        for _ in range(10):
            page.wait_for_timeout(100)
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        page.keyboard.press("r")
        tab.until("document.getElementById('take').textContent.includes(' of the video.')")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as JSON").click()
        download.value.save_as(tmp_path / "alpha.json")
        take = AlphaTimeline.read(tmp_path / "alpha.json", ("bright", "dark"))
        assert take.unit == "frames"
        assert take.coefficients[-1].tolist() == [0.6, 0.4]
        assert 5 <= take.times[-1] - take.times[-2] <= 25  # Stop, 0.3 s later
        assert len(take.times) >= 10
        assert not page.get_by_label("loop").is_visible()  # it goes by the frames of the video
        tab.close()


def test_views_pause_and_upload_work(browser: Any, tmp_path: Path) -> None:
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
        frozen_frame = page.evaluate("dni.frame")
        page.wait_for_timeout(200)
        assert page.evaluate("dni.frame") - frozen_frame <= 2  # frames that were in flight
        from PIL import Image

        Image.new("RGB", (32, 48), (90, 90, 90)).save(tmp_path / "own.png")
        page.locator("#file").set_input_files(tmp_path / "own.png")
        tab.until("document.getElementById('picture').width === 32")
        assert "your image" in page.locator("#source").inner_text()
        page.get_by_role("button", name="Back to a clock").click()
        tab.until("document.getElementById('picture').width === 96")
        assert not page.locator("#restore").is_visible()
        (tmp_path / "bad.png").write_text("<script>alert(1)</script>")
        tab.problems.clear()
        page.locator("#file").set_input_files(tmp_path / "bad.png")
        tab.until("!document.getElementById('problem').hidden")
        assert "PNG" in page.locator("#problem").inner_text()
        tab.problems = [problem for problem in tab.problems if "400 (Bad Request)" not in problem]  # the browser's own message
        tab.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_the_page_fits_and_every_control_has_a_name(browser: Any, width: int, scheme: str, tmp_path: Path) -> None:
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
