"""Page: self-contained, escaped, and in a real browser it moves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import UsageError
from dni_deploy.reports.page import SweepFrame, render_slider_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
EVIL = "</script><img src=x onerror=alert(1)>&\"'"


def shots(count: int = 5) -> list[SweepFrame]:
    """Grey pictures of rising brightness, best in the middle."""
    return [
        SweepFrame(np.full((24, 32, 3), 50 * index, np.uint8), f"alpha {index / (count - 1):g}", 30.0 - abs(index - 2), 28.0)
        for index in range(count)
    ]


def written(**options: Any) -> str:
    settings: dict[str, Any] = {
        "title": "Noise 40", "lead": "Move it.", "ends": ("all N60", "all N20"), "best": 2, "blend_pixels": True,
        "levels": {"N40": 29.5}, "facts": {"engine": "none"},
    }  # fmt: skip
    return render_slider_page(shots(), np.zeros((24, 32, 3), np.uint8), **{**settings, **options})


class Collector(HTMLParser):
    """Every tag with its attributes; text of the script that holds the numbers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_nothing_comes_from_outside() -> None:
    tags = Collector(written()).tags
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name)
        assert not [name for name in attributes if name.startswith("on")]
    assert [attributes for tag, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert not re.search(r"https?://|@import|url\(", written())


def test_every_control_has_a_name_and_every_picture_a_text() -> None:
    tags = Collector(written()).tags
    labels = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    for tag, attributes in tags:
        if tag == "input" and attributes["type"] == "range":
            assert attributes["id"] in labels
        if tag == "img":
            assert attributes.get("alt") is not None
    assert ("html", {"lang": "en"}) in tags


def test_names_cannot_become_markup() -> None:
    text = written(title=EVIL, lead=EVIL, ends=(EVIL, EVIL), levels={EVIL: 29.0}, facts={EVIL: EVIL})
    hostile = [SweepFrame(shot.frame, EVIL, shot.psnr) for shot in shots()]
    text += render_slider_page(hostile, hostile[0].frame, title="t", introduction="l", end_labels=("a", "b"))
    assert "<img src=x" not in text
    assert text.count("</script>") == 4
    facts = json.loads(re.findall(r'id="facts">(.*?)</script>', text)[1])
    assert facts["rows"][0]["alpha"] == EVIL


def test_identical_pictures_and_missing_references() -> None:
    same = [SweepFrame(shot.frame, shot.alpha_text, float("inf")) for shot in shots()]
    text = render_slider_page(same, same[0].frame, title="t", introduction="l", end_labels=("a", "b"), best_index=0)
    assert "identical" in text
    assert "Infinity" not in text
    assert "NaN" not in text
    none = [SweepFrame(shot.frame, shot.alpha_text) for shot in shots()]
    text = render_slider_page(none, none[0].frame, title="t", introduction="l", end_labels=("a", "b"))
    assert "<svg" not in text
    assert "<table" not in text
    with pytest.raises(UsageError):
        render_slider_page(none[:1], none[0].frame, title="t", introduction="l", end_labels=("a", "b"))


def test_large_sweeps_are_written_as_jpeg_and_the_page_says_so() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1200, 1700, 3), dtype=np.uint8)
    text = render_slider_page(
        [SweepFrame(frame, "a"), SweepFrame(frame, "b")], frame, title="t", introduction="l", end_labels=("a", "b")
    )
    assert "data:image/png" not in text
    assert "as JPEG of quality 95" in text
    assert "without loss" in written()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield started
        started.close()


def middle_pixel(tab: Any) -> int:
    """The red value that the eye sees in the middle of the picture."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(tab.locator("#stage").screenshot())) as image:
        pixel = image.convert("RGB").getpixel((image.width * 3 // 4, image.height // 2))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_slider_moves_the_picture(tmp_path: Path, browser: Any, width: int, scheme: str) -> None:
    place = tmp_path / "page.html"
    place.write_text(written(), encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(place.as_uri())
    slider = tab.get_by_label("alpha", exact=True)
    assert middle_pixel(tab) == 100  # starts at the best, shot 2
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert middle_pixel(tab) == 150
    assert "alpha 0.75" in slider.get_attribute("aria-valuetext")
    assert "29.00 dB" in tab.locator("#told").inner_text()
    tab.keyboard.press("Home")
    assert middle_pixel(tab) == 0
    tab.keyboard.press("End")
    assert middle_pixel(tab) == 200

    tab.get_by_label("blended pixels").check()
    slider.fill("1")
    assert middle_pixel(tab) == pytest.approx(50, abs=1)  # a quarter of 200 over 0; the browser rounds
    tab.get_by_label("blended weights").check()
    assert middle_pixel(tab) == 50

    slider.fill("4")
    tab.get_by_label("Uncover the input").fill("90")
    assert middle_pixel(tab) == 0
    tab.get_by_label("Uncover the input").fill("0")
    assert middle_pixel(tab) == 200

    tab.get_by_text("All numbers").click()
    assert tab.locator("tr").count() == 6
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    tab.close()
