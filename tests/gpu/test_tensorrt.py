"""TensorRT on the GPU: from a bundle to frames through Session, in every mode and precision, against ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.session.session import open_session
from engines.profile import Profile
from tests.engines.conftest import write
from tests.engines.trt.conftest import CASES
from tests.support.needs_gpu import need_gpu

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3}
"""Of the largest value, as issued: float32 in another order, float16 activations."""
FRAMES = 200


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    need_gpu("tensorrt", "polygraphy")


@pytest.fixture(params=list(CASES))
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return write(CASES[request.param](), tmp_path / "case.dni", members=3)


@pytest.fixture
def build(bundle: Bundle) -> Any:
    from engines.interface import BuildOptions
    from engines.registry import build_engine

    def built(name: str, precision: str = "fp32") -> None:
        profile = Profile.from_shapes(bundle.signature, (1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 96, 96))
        build_engine(bundle, name, BuildOptions(precision=precision, profile=profile))

    return built


def truth(bundle: Bundle, shares: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    from engines import ort_session

    members = [bundle.read_weights(name) for name in bundle.members]
    return ort_session.run_session(
        ort_session.open_cpu_session(bundle.read_graph_with_weights(blend_float64(members, np.array(shares, np.float64))), 1), x
    )


def pictures() -> Iterator[NDArray[np.float32]]:
    """Two shapes, so that a context takes more than one."""
    for seed, side in enumerate((40, 64)):
        yield np.random.default_rng(seed).random((1, 3, side, side + 8), np.float32)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_frames_have_the_alpha_that_was_set(precision: str, cuda_graph: bool, bundle: Bundle, build: Any) -> None:
    build("tensorrt", precision)
    with open_session(bundle, engine="tensorrt", precision=precision, cuda_graph=cuda_graph) as session:
        for shares in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.3, 0.5), (0.0, 0.75, 0.25)):
            session.alpha = dict(zip(bundle.members, shares, strict=True))
            for x in pictures():
                expected = truth(bundle, shares, x)
                assert np.abs(session.infer(x) - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_every_frame_is_of_one_alpha(ahead: bool, cuda_graph: bool, bundle: Bundle, build: Any) -> None:
    """Alphas from another thread; each frame must be one of the few pictures that they give, to the bit."""
    build("tensorrt")
    x = next(pictures())
    alphas = [dict(zip(bundle.members, shares, strict=True)) for shares in ((1, 0, 0), (0, 1, 0), (0.5, 0.25, 0.25))]
    with open_session(bundle, engine="tensorrt", slots=2, cuda_graph=cuda_graph) as session:
        known = set()
        for alpha in alphas * 2:
            session.alpha = alpha
            known.add(session.infer(x).tobytes())
    assert len(known) == len(alphas)
    done = threading.Event()
    with open_session(bundle, engine="tensorrt", slots=2, async_refit=ahead, cuda_graph=cuda_graph) as session:

        def ask() -> None:
            rng = np.random.default_rng(0)
            while not done.wait(2e-4):
                session.alpha = alphas[rng.integers(len(alphas))]

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            frames = [session.infer(x).tobytes() for _ in range(FRAMES)]
        finally:
            done.set()
            asking.join()
    assert set(frames) <= known
    assert len(set(frames)) > 1


def test_all_memory_comes_back(bundle: Bundle, build: Any) -> None:
    from engines.cuda.device import Device

    build("tensorrt")
    x = next(pictures())
    device = Device.open(0)
    free = []
    for _ in range(4):
        with open_session(bundle, engine="tensorrt", slots=2) as session:
            session.infer(x)
        with device:
            free.append(device.query_free_bytes())
    device.close()
    assert free[1:] == free[1:2] * 3  # the first round also loads kernels
