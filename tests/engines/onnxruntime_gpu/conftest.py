"""What the tests of ONNX Runtime on the GPU share: a network, and the CPU provider in place of the GPU's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND


@pytest.fixture
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    name = getattr(request, "param", "compact")
    return HAND[name]() if name in HAND else pico_case(name)


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `open_bound` open its engine on the CPU provider."""
    from engines.onnxruntime_gpu import engine as bound

    defaults = bound.BoundEngine.__init__.__kwdefaults__
    monkeypatch.setattr(
        bound.BoundEngine.__init__, "__kwdefaults__", defaults | {"provider": "CPUExecutionProvider", "device_type": "cpu"}
    )
