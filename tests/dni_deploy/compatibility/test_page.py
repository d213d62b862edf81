"""The page of a check shows every pair, every layer and every difference, and lets no name become markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.checkpoints.family import Difference
from dni_deploy.compatibility.correlation import LayerCorrelation
from dni_deploy.compatibility.midpoint import Barrier, Midpoint, measure_blend_loss
from dni_deploy.compatibility.page import CSS_CLASS_BY_VERDICT, render_check_page
from dni_deploy.compatibility.report import ArchitectureMismatch, CheckReport, PairReport, PathReport
from dni_deploy.compatibility.trial import PairContactSheet
from dni_deploy.compatibility.verdict import VERDICTS
from tests.support.browser import browser as browser

BARRIER = Barrier("a - b", "drawn", 0.01, 0.02, 0.01, 0.01)
PAIR = PairReport(
    "a - b", "blends with caveats", ("scale",), 0.85, 0.2, 1.9, ("A reason.",), ("Some advice.",), measure_blend_loss([BARRIER])
)
LAYER = LayerCorrelation("a - b", "body.0.weight", (8, 4, 3, 3), 8, 1, (-0.5, 0.5, 0.6, 0.9, 1.0))
REPORT = CheckReport(
    "blends with caveats", ("a", "b"), "compact", 0.85, ("A reason.",), ("Some advice.",), ("A note.",), (PAIR,),
    layers=(LAYER,), midpoints=(Midpoint("a - b", 0.1, 0.5, 0.0, 1.0, True, "drawn"),),
    barriers=(BARRIER,),
)  # fmt: skip
FRAMES = tuple(np.full((300, 200, 3), value, np.uint8) for value in (0, 80, 160, 240))
SHEET = PairContactSheet("a - b", "drawn", FRAMES)


def test_a_pair_is_shown_with_its_images_layers_and_tables() -> None:
    text = render_check_page(REPORT, [SHEET])
    assert text.count("data:image/png;base64,") == 4
    assert "0.100 from the pixels" in text
    assert "+3.01" in text  # twice the error
    assert "<dt>pixel blending, dB</dt><dd>20.00</dd>" in text  # a mean squared error of 0.01
    assert "<dt>loss halfway against the worse end, dB</dt><dd>+3.01</dd>" in text
    assert re.findall("<summary>(.*?)</summary>", text) == [
        "Layers", "Correlation index", "Halfway", "Loss barrier",
    ]  # fmt: skip
    assert re.findall('<img alt="(.*?)"', text) == [
        "Output of a, drawn", "Output halfway, weights blended, drawn", "Mean of the two outputs' pixels, drawn",
        "Output of b, drawn",
    ]  # fmt: skip
    assert text.count("A reason.") == text.count("Some advice.") == text.count("A note.") == 1


def test_the_axis_reaches_below_zero_only_where_a_layer_does() -> None:
    assert 'style="left:55.00%">0.1<' in render_check_page(REPORT, [])  # halfway from -1 to 1 and 5 % more
    positive = replace(LAYER, quantiles=(0.0, 0.5, 0.6, 0.9, 1.0))
    text = render_check_page(replace(REPORT, layers=(positive,)), [])
    assert 'style="left:0.00%">0<' in text
    assert '<span class="lower" style="left:10.00%">0.1<' in text  # below the axis, clear of its 0
    assert "colored lines across the bar" in text
    assert "width:40.00%" in text  # from 0.5 to 0.9


def test_several_pairs_and_members_are_tables() -> None:
    other = replace(PAIR, pair="a - c", reasons=("Another reason.",), loss=None)
    report = replace(
        REPORT, pairs=(PAIR, other), compared=("a", "b", "c"),
        path=PathReport(("b", "a", "c"), ("a - b", "a - c"), "a - c", "will not blend"),
        distances=((0.0, 0.1, 0.2), (0.1, 0.0, 0.3), (0.2, 0.3, 0.0)),
    )  # fmt: skip
    text = render_check_page(report, [SHEET])
    assert "<h2>Why</h2>" not in text
    assert "Another reason." in text
    assert "b \N{RIGHTWARDS ARROW} a \N{RIGHTWARDS ARROW} c" in text
    assert text.count("0.300") == 2
    assert 'Weak link: <b>a - c</b>, <span class="bad">will not blend</span>' in text
    assert "<td>+3.01</td><td>+0.00</td></tr>" in text.replace("-0.00", "+0.00")
    assert "<td>-</td><td>-</td></tr>" in text


def test_members_of_another_network_are_listed() -> None:
    mismatch = ArchitectureMismatch("a", "z", 9, (Difference("<w>", "shape", "(8, 3)", "(4, 3)"),))
    text = render_check_page(replace(REPORT, mismatches=(mismatch,)), [])
    assert "Members of another network" in text
    assert "&lt;w&gt;" in text
    assert "<w>" not in text


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_a_color(verdict: str) -> None:
    assert set(CSS_CLASS_BY_VERDICT) == set(VERDICTS)
    assert f'<span class="{CSS_CLASS_BY_VERDICT[verdict]}">{verdict}</span>' in render_check_page(
        replace(REPORT, verdict=verdict), []
    )


@pytest.mark.parametrize("count", [1, 2])
def test_what_kept_the_network_from_running_is_said_once_and_first(count: int) -> None:
    report = replace(
        REPORT, verdict="not known", obstacle="No <torch>.", reasons=("No <torch>.", "A reason."), pairs=(PAIR,) * count
    )
    text = render_check_page(report, [])
    assert text.count("No &lt;torch&gt;.") == 1
    assert text.index("No &lt;torch&gt;.") < text.index("A reason.")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_numbers_and_layers_have_their_room(tmp_path: Path, browser: Any, width: int) -> None:
    path = tmp_path / "page.html"
    layers = tuple(replace(LAYER, layer=f"a.very.long.name.of.a.block.{index}.weight") for index in range(3))
    path.write_text(render_check_page(replace(REPORT, layers=layers), [SHEET]), encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert max(tab.locator("dd").evaluate_all("rows => rows.map(row => row.clientHeight)")) <= 30  # one line each
    assert min(tab.locator(".layers .bar").evaluate_all("bars => bars.map(bar => bar.clientWidth)")) >= 200
    boxes = tab.locator(".layers .axis span").evaluate_all(
        "marks => marks.map(mark => { const box = mark.getBoundingClientRect(); return [box.left, box.right, box.top]; })"
    )
    for left, right, top in boxes:
        assert not [box for box in boxes if box[2] == top and box[0] != left and box[0] < right and left < box[1]]
    tab.close()
