"""The page of a sweep is self-contained and escaped, and in a browser its sliders change the displayed image."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.reports.sweep import SweepPoint, SweepReport, find_best_point
from dni_deploy.reports.sweep_page import render_sweep_page

HOSTILE_NAME = "</script><img src=x onerror=alert(1)>&\"'"


def gray_frames(count: int = 5) -> list[np.ndarray]:
    """Makes frames of increasing brightness: 0, 50, 100, ..."""
    return [np.full((24, 32, 3), 50 * index, np.uint8) for index in range(count)]


def sweep_report(psnrs: list[float | None], **options: Any) -> SweepReport:
    """A report of two members, alpha in even steps; without a reference where a PSNR is None."""
    last = len(psnrs) - 1
    points = tuple(
        SweepPoint((index / last, 1 - index / last), psnr, None if psnr is None else 28.0, 0.001, 0.02)
        for index, psnr in enumerate(psnrs)
    )
    settings: dict[str, Any] = {"members": ("N20", "N60"), "engine": "none", "files": ()}
    return SweepReport(**{**settings, **options}, points=points, best_index=find_best_point(points))


def render(title: str = "Noise 40", level_name: str = "N40", reference: np.ndarray | None = None, **options: Any) -> str:
    report = sweep_report([30.0 - abs(index - 2) for index in range(5)], **options)  # the best in the middle
    return render_sweep_page(gray_frames(), report, np.zeros((24, 32, 3), np.uint8), title, {level_name: 29.5}, reference)


class Collector(HTMLParser):
    """Collects every tag with its attributes, and the text of the script that holds the numbers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_nothing_is_loaded_from_outside() -> None:
    tags = Collector(render()).tags
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name)
        assert not [name for name in attributes if name.startswith("on")]
    assert [attributes for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert not re.search(r"https?://|@import|url\(", render())


def test_every_control_has_a_label_and_every_image_a_text() -> None:
    tags = Collector(render()).tags
    labels = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    for tag, attributes in tags:
        if tag == "input" and attributes["type"] == "range":
            assert attributes["id"] in labels
        if tag == "img":
            assert attributes.get("alt") is not None
    assert ("html", {"lang": "en"}) in tags


def test_names_cannot_become_markup() -> None:
    text = render(title=HOSTILE_NAME, level_name=HOSTILE_NAME, engine=HOSTILE_NAME)
    text += render(members=(HOSTILE_NAME, "N60"))
    assert "<img src=x" not in text
    assert text.count("</script>") == 4
    data = json.loads(re.findall(r'id="page-data">(.*?)</script>', text)[1])
    assert data["rows"][0]["alpha"] == f"alpha 0: {HOSTILE_NAME} 0, N60 1"


def test_identical_images_and_missing_references() -> None:
    frames = gray_frames()
    text = render_sweep_page(frames, sweep_report([float("inf")] * 5), frames[0], "t")
    assert "identical" in text
    assert "Infinity" not in text
    assert "NaN" not in text
    text = render_sweep_page(frames, sweep_report([None] * 5), frames[0], "t")
    assert "<svg" not in text
    assert "<table" not in text


def test_the_reference_can_be_shown() -> None:
    frames = gray_frames()
    text = render_sweep_page(frames, sweep_report([28.0] * 5), frames[0], "t", None, frames[1])
    assert 'value="reference"' in text
    assert text.count('id="reference-frame"') == 1
    assert "reference-frame" not in re.sub("<script.*", "", render(), flags=re.DOTALL)


def test_a_sweep_over_three_members_has_no_pixel_blend() -> None:
    corners = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    points = tuple(SweepPoint(coefficients, None, None, 0.001, 0.02) for coefficients in corners)
    report = SweepReport(("a", "b", "c"), "none", points, None, ())
    text = render_sweep_page(gray_frames(3), report, gray_frames(1)[0], "t")
    assert "all a" in text
    assert "all c" in text
    assert "blended pixels of" not in text


def test_large_sweeps_are_written_as_jpeg_and_the_page_says_so() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1200, 1700, 3), dtype=np.uint8)
    text = render_sweep_page([frame, frame], sweep_report([None, None]), frame, "t")
    assert "data:image/png" not in text
    assert "as JPEG of quality 95" in text
    assert "without loss" in render()


def read_middle_pixel(tab: Any) -> int:
    """Returns the displayed red value right of the center of the image."""
    with Image.open(io.BytesIO(tab.locator("#viewer").screenshot())) as image:
        pixel = image.convert("RGB").getpixel((image.width * 3 // 4, image.height // 2))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_sliders_change_the_displayed_image(tmp_path: Path, browser: Any, width: int, scheme: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(reference=gray_frames()[4]), encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    slider = tab.get_by_label("alpha", exact=True)
    assert read_middle_pixel(tab) == 100  # starts at the best, frame 2
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert read_middle_pixel(tab) == 150
    tab.get_by_label("the reference").check()
    assert read_middle_pixel(tab) == 200
    assert tab.locator("#status").inner_text().endswith("the reference")
    tab.get_by_label("blended weights").check()
    assert read_middle_pixel(tab) == 150
    slider.focus()
    assert "alpha 0.75" in slider.get_attribute("aria-valuetext")
    assert "29.00 dB" in tab.locator("#status").inner_text()
    tab.keyboard.press("Home")
    assert read_middle_pixel(tab) == 0
    tab.keyboard.press("End")
    assert read_middle_pixel(tab) == 200

    tab.get_by_label("blended pixels").check()
    slider.fill("1")
    assert read_middle_pixel(tab) == pytest.approx(50, abs=1)  # a quarter of 200 over 0; the browser rounds
    tab.get_by_label("blended weights").check()
    assert read_middle_pixel(tab) == 50

    slider.fill("4")
    tab.get_by_label("Uncover the input").fill("90")
    assert read_middle_pixel(tab) == 0
    tab.get_by_label("Uncover the input").fill("0")
    assert read_middle_pixel(tab) == 200

    tab.get_by_text("All numbers").click()
    assert tab.locator("tr").count() == 6
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    tab.close()
