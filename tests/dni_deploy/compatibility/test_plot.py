"""The plot of the layers has the requested file type, and the same bytes every time."""

from __future__ import annotations

import pytest

from tests.dni_deploy.compatibility.test_page import LAYER

pytest.importorskip("matplotlib", reason="the plot needs the extra `report`")
from dni_deploy.compatibility.plot import plot_layers


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plots_of_equal_layers_are_equal_bytes(kind: str, start: bytes) -> None:
    data = plot_layers([LAYER], "a, b", kind)
    assert data.startswith(start)
    assert plot_layers([LAYER], "a, b", kind) == data
