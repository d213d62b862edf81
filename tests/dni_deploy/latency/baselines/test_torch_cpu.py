"""Every baseline in PyTorch computes the blend that it is timed for, compiled code too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import EngineOptions
from tests.engines.conftest import Case, pico_case, write  # noqa: F401

pytest.importorskip("torch", reason="the baselines need the extra `export`")
import torch

from dni_deploy.latency.baselines.torch_cpu import TorchChannelsLast, TorchCompiled, TorchEager

MAX_RELATIVE_ERROR = 1e-5
"""Of the output's largest value: PyTorch adds in another order, in float32."""
X = np.random.default_rng(0).random((1, 3, 16, 12), np.float32)


@pytest.fixture
def bundle(pico_case: Callable[[str], Case], tmp_path: Path) -> Bundle:  # noqa: F811
    return write(pico_case("compact"), tmp_path / "x.dni", members=3)


def check_blends(engine: TorchEager, bundle: Bundle) -> None:
    members = [bundle.read_weights(name) for name in bundle.members]
    for coefficients in ([0.2, 0.3, 0.5], [0.0, 0.6, 0.4]):
        engine.refit(0, np.array(coefficients))
        blended = bundle.read_graph_with_weights(blend_float64(members, np.array(coefficients)))
        y = engine.infer(0, X)
        assert y.flags.c_contiguous
        assert relative_error(y, ort_session.run_session(ort_session.open_cpu_session(blended, 1), X)) <= MAX_RELATIVE_ERROR
    with pytest.raises(EngineError, match=r"PyTorch could not run an input of shape \(1, 4, 8, 8\)"):
        engine.infer(0, np.zeros((1, 4, 8, 8), np.float32))
    engine.close()


@pytest.mark.parametrize("engine_class", [TorchEager, TorchChannelsLast])
def test_computes_the_blend(engine_class: type[TorchEager], bundle: Bundle) -> None:
    check_blends(engine_class(bundle, EngineOptions(threads=1)), bundle)


def test_channels_last_weights_stay_so_after_a_refit_from_members_in_that_order(bundle: Bundle) -> None:
    engine = TorchChannelsLast(bundle, EngineOptions(threads=1))
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    blended = [*engine._net.parameters(), *engine._states[0].values()]
    weights = [weight for weight in blended if weight.ndim == 4 and weight.shape[1] > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.slow
def test_compiled_code_reads_the_weights_that_were_loaded_last(bundle: Bundle) -> None:
    import torch._inductor.cpp_builder as builder

    try:
        builder.get_cpp_compiler()
    except RuntimeError as error:
        pytest.skip(str(error).partition("\n")[0])
    check_blends(TorchCompiled(bundle, EngineOptions(threads=1)), bundle)


@pytest.mark.slow
def test_without_a_cpp_compiler_the_frame_fails_with_one_sentence(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nonexistent"))
    torch._dynamo.reset()
    engine = TorchCompiled(bundle, EngineOptions(threads=1))
    with pytest.raises(EngineError, match=r"No working C\+\+ compiler found") as caught:
        engine.infer(0, X)
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()
