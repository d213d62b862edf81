"""The page of a search shows the finding, the command, the images and every evaluation, and lets no name become markup."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.dni_deploy.tuning.test_report import tune_report
from tests.support.browser import browser as browser

pytest.importorskip("matplotlib", reason="the plot on the page needs the extra `report`")
from dni_deploy.tuning.page import render_tune_page


def test_page_shows_finding_command_images_and_evaluations() -> None:
    report = tune_report(bundle="<b>.dni", notes=("A note.",))
    text = render_tune_page(report, {"input <i>": np.zeros((4, 4, 3), np.uint8)}, "<x>.png")
    for sentence in (*report.format_finding(), "A note."):
        assert sentence in text
    assert "run &#x27;&lt;b&gt;.dni&#x27; in.png" in text
    assert text.count("<svg") == len(report.scores) + 1  # and the front, each of which fits on a phone
    assert '<div class="plots" role="img" aria-label=' in text
    assert "<th>share of a</th><th>share of b</th><th>psnr</th>" in text  # members are often called as metrics are
    assert text.count("data:image/png;base64,") == 1
    assert 'alt="input &lt;i&gt;"' in text
    assert "<x>" not in text
    assert text.count("<tr") == 1 + len(report.evaluations)
    assert text.count('class="best"') == 1
    assert "<script" not in text


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_plots_can_be_read_on_a_phone(tmp_path: Path, browser: Any, scheme: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(render_tune_page(tune_report(), {}, "x"), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    widths = tab.evaluate(
        "[...document.querySelectorAll('.plot svg')].map(svg => [svg.clientWidth, svg.viewBox.baseVal.width])"
    )
    for shown, drawn in widths:  # labels are 10 points of the drawing
        assert 10 * shown / drawn >= 10
    with Image.open(io.BytesIO(tab.locator(".plot").first.screenshot())) as image:
        assert (image.convert("L").getpixel((image.width // 2, 3)) < 60) == (scheme == "dark")
    tab.close()
