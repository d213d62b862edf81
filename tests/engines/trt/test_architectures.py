"""Every pico architecture through the TensorRT engines on the fake: names, folds, norms and shapes as real networks have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging import frames
from dni_deploy.session.session import open_session
from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines.interface import BuildOptions, EngineOptions
from engines.profile import Profile
from engines.registry import build_engine, load_engine
from tests.engines.conftest import NAMES, Case, write
from tests.engines.trt.conftest import truth
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand


def profile(case: Case) -> Profile:
    """All of the case's shapes, and the batch of a frame."""
    shapes = [*case.shapes, (case.signature.frame_batch, *case.shapes[0][1:])]
    low, high = (tuple(choose(sizes) for sizes in zip(*shapes, strict=True)) for choose in (min, max))
    return Profile.from_shapes(case.signature, low, high, high)  # type: ignore[arg-type]


def check_frames(bundle: Bundle, precision: str, shapes: Sequence[tuple[int, int]]) -> None:
    """A session's frames against the reference conversion around ONNX Runtime."""
    with open_session(bundle, engine="tensorrt", precision=precision, alpha=0.35) as session:
        for height, width in shapes:
            frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
            y = truth(bundle, session.alpha.to_array(), frames.to_network(frame, bundle.signature))
            expected = frames.from_network(y, frame, bundle.signature)
            # 7e-3 of 255, as below, is 2 levels; rounding to a level adds one.
            assert np.abs(session(frame).astype(int) - expected).max() <= (3 if precision == "fp16" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_architecture(name: str, precision: str, gpu: FakeGpu, tmp_path: Path, pico_case: Callable[[str], Case]) -> None:
    case = pico_case(name)
    bundle = write(case, tmp_path / "case.dni", members=2)
    build_engine(bundle, "tensorrt", BuildOptions(profile=profile(case), precision=precision))
    engine = load_engine(bundle, "tensorrt", EngineOptions(precision=precision))
    for shares in ([0.35, 0.65], [0.0, 1.0]):
        engine.refit(0, np.array(shares))
        for x in case.inputs():
            got, expected = engine.infer(0, x), truth(bundle, shares, x)
            # As engines/verification.py has them; the worst pixel of a float16 CycleGAN is off by 7e-3, and these pictures are small.
            assert psnr_db(got, expected) >= 50 if precision == "fp16" else relative_error(got, expected) <= 1e-4
    engine.close()
    if bundle.signature.takes_frames:
        check_frames(bundle, precision, [(shape[2], shape[3]) for shape in case.shapes])


@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
def test_a_gray_network_built_with_the_default_shapes_runs_a_frame(gpu: FakeGpu, tmp_path: Path) -> None:
    """It takes the three colors of a frame as a batch of three."""
    hand = Hand(channels=1)
    case = hand.case(hand.conv(hand.node("Relu", [hand.conv("x", 4)]), 1))
    bundle = write(case, tmp_path / "gray.dni")
    build_engine(bundle, "tensorrt", BuildOptions())
    check_frames(bundle, "fp32", [(48, 40)])
    engine = load_engine(bundle, "tensorrt")
    engine.refit(0, np.array([0.35, 0.65]))
    assert engine.infer(0, np.zeros((1, 1, 32, 48), np.float32)).shape == (1, 1, 32, 48)
    engine.close()
