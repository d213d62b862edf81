"""Every pico architecture through the TensorRT engines on the fake: names, folds, norms and shapes as real networks have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines.interface import BuildOptions, EngineOptions
from engines.profile import Profile
from engines.registry import build_engine, load_engine
from tests.engines.conftest import NAMES, Case, write
from tests.engines.trt.conftest import truth
from tests.fakes.gpu import FakeGpu


def profile(case: Case) -> Profile:
    """All of the case's shapes."""
    low, high = (tuple(choose(sizes) for sizes in zip(*case.shapes, strict=True)) for choose in (min, max))
    return Profile.from_shapes(case.signature, low, high, high)  # type: ignore[arg-type]


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
