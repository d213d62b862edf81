"""What the tests of the TensorRT engines share: small bundles, and the versions that the stand-in plays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from engines.profile import Profile
from tests.engines.conftest import Case, write
from tests.support.handmade_graphs import Hand

VERSIONS = ("11.4", "10.16", "8.6")


def bn() -> Case:
    """Convolutions with a BatchNorm between, a PReLU, a factor and a sum: what a refit has to get right all at once."""
    hand = Hand()
    first = hand.conv("x", 8)
    second = hand.prelu(hand.batch_norm(hand.conv(first, 8)))
    return _at_17(hand.case(hand.conv(hand.node("Add", [hand.times(second, 0.2), first]), 3), name="bn"))


def instance_norm() -> Case:
    """Convolution, InstanceNormalization, Relu, convolution."""
    hand = Hand()
    first = hand.conv("x", 8)
    scale, shift = hand.weight("norm.weight", (8,), 0.5, 1.5), hand.weight("norm.bias", (8,), -0.5, 0.5)
    normed = hand.node("InstanceNormalization", [first, scale, shift], epsilon=1e-5)
    return _at_17(hand.case(hand.conv(hand.node("Relu", [normed]), 3), name="instance_norm"))


CASES: dict[str, Callable[[], Case]] = {"bn": bn, "instance_norm": instance_norm}


def _at_17(case: Case) -> Case:
    """The opset that TensorRT 8.6 reads; its operators are the same there."""
    case.graph.opset_import[0].version = 17
    return replace(case, graph=case.graph)


def profile(bundle: Bundle) -> Profile:
    """Small frames, so that the stand-in and ONNX Runtime take milliseconds."""
    return Profile.from_shapes(bundle.signature, (1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 24, 24))


def picture(seed: int = 0, height: int = 12, width: int = 20) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((1, 3, height, width), np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=3)


@pytest.fixture(autouse=True)
def numpy_1(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for 8.6 reads NumPy 2's arrays right, which the real one does not."""
    if "gpu" in request.fixturenames:
        monkeypatch.setattr("engines.trt.features.NUMPY_MAJOR_VERSION", 1)
