"""The page of a search shows the finding, the command, the images and every evaluation, and lets no name become markup."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dni_deploy.tuning.test_report import tune_report

pytest.importorskip("matplotlib", reason="the plot on the page needs the extra `report`")
from dni_deploy.tuning.page import render_tune_page


def test_page_shows_finding_command_images_and_evaluations() -> None:
    report = tune_report(bundle="<b>.dni", notes=("A note.",))
    text = render_tune_page(report, {"input <i>": np.zeros((4, 4, 3), np.uint8)}, "<x>.png")
    for sentence in (*report.format_finding(), "A note."):
        assert sentence in text
    assert "run &#x27;&lt;b&gt;.dni&#x27; in.png" in text
    assert text.count("<svg") == 1
    assert text.count("data:image/png;base64,") == 1
    assert 'alt="input &lt;i&gt;"' in text
    assert "<x>" not in text
    assert text.count("<tr") == 1 + len(report.evaluations)
    assert text.count('class="best"') == 1
    assert "<script" not in text
