"""What the tests of the TensorRT engines share: small bundles, and the versions that the fake plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError
from engines import ort_session
from engines.interface import BuildOptions, EngineOptions
from engines.profile import Profile
from engines.registry import build_engine, load_engine
from engines.trt.library import Library, load_library
from engines.trt.network import Network
from engines.trt.plan_identity import PlanIdentity
from tests.engines.conftest import Case, write
from tests.fakes.gpu import FakeGpu, current
from tests.support.handmade_graphs import Hand

VERSIONS = ("11.4", "10.16", "8.6", "rtx-1.7")
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""fp32: the fake TensorRT is ONNX Runtime as well, on weights that were blended in float32. fp16: as in engines/verification.py."""

everywhere = pytest.mark.parametrize("gpu", VERSIONS, indirect=True)


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
    """Small frames, so that the fake and ONNX Runtime take milliseconds."""
    return Profile.from_shapes(bundle.signature, (1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 24, 24))


def engine_name() -> str:
    """The engine that runs on the fake's library: `tensorrt` or `tensorrt-rtx`."""
    return "tensorrt-rtx" if current().tensorrt.startswith("rtx") else "tensorrt"


def library() -> Library:
    """The fake's library."""
    return load_library(engine_name())


def build(bundle: Bundle, **options: Any) -> Any:
    """Builds the plan for `engine_name()`."""
    return build_engine(bundle, engine_name(), BuildOptions(**{"profile": profile(bundle), **options}))


@contextmanager
def opened(bundle: Bundle, **options: Any) -> Iterator[Any]:
    """The engine `engine_name()`, closed at the end."""
    engine: Any = load_engine(bundle, engine_name(), EngineOptions(**options))
    try:
        yield engine
    finally:
        engine.close()


def serialize_refitted(bundle: Bundle, coefficients: Any) -> bytes:
    """What `refit -o x.plan` writes."""
    from engines.trt import load

    return load.serialize_refitted(bundle, np.asarray(coefficients), name=engine_name())


def identity_of(
    bundle: Bundle,
    network_class: type[Network] = Network,
    precision: str = "fp32",
    shapes: Profile | None = None,
    device: int = 0,
) -> PlanIdentity:
    """What a plan of this kind must be for on this machine."""
    lowered = network_class.lower(bundle, library().features.graph_precision(precision))
    return PlanIdentity.for_graph(
        bundle, network_class, lowered, library(), precision, shapes or profile(bundle), device=device
    )


def truth(bundle: Bundle, shares: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime computes with the float64 blend."""
    blended = blend_float64([bundle.read_weights(name) for name in bundle.members], np.array(shares, np.float64))
    return ort_session.run_session(ort_session.open_cpu_session(bundle.read_graph_with_weights(blended)), x)


def assert_refused(gpu: FakeGpu, words: str, call: Callable[[], Any]) -> None:
    """The call fails with these words, and nothing is left even while the exception and its frames exist."""
    with pytest.raises(DniError, match=words) as refusal:
        call()
    assert gpu.leaks() == [], refusal


def picture(seed: int = 0, height: int = 12, width: int = 20) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((1, 3, height, width), np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=3)


@pytest.fixture(autouse=True)
def numpy_1(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake 8.6 reads NumPy 2's arrays right, which the real one does not."""
    if "gpu" in request.fixturenames:
        monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 1)
