"""Building a plan on the fake TensorRT of each version: what is refused, what is written, and that a failure leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from engines.interface import BuildOptions
from engines.profile import Profile
from engines.registry import build_engine, load_engine
from tests.engines.conftest import Case, write
from tests.engines.trt.conftest import (
    CASES,
    assert_refused,
    bn,
    build,
    engine_name,
    everywhere,
    opened,
    picture,
    profile,
    truth,
)
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand


@everywhere
def test_an_existing_plan_needs_force(bundle: Bundle, gpu: FakeGpu) -> None:
    plan = build(bundle).plan_path
    with pytest.raises(UsageError, match="--force"):
        build(bundle)
    assert build(bundle, force=True).plan_path == plan
    assert build(bundle, precision="fp16").plan_path != plan
    with opened(bundle, precision="fp32") as engine:
        assert "fp32" in engine.update_path
    with opened(bundle) as engine:
        assert "fp16" in engine.update_path  # the newest


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_tensorrt_8_6_refuses_what_it_cannot_build(
    bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="without --strip"):
        build(bundle, strip=True)
    case = CASES["bn"]()
    case.graph.opset_import[0].version = 18
    newer = write(case, tmp_path / "newer.dni", members=2)
    with pytest.raises(EngineError, match="export with --opset 17"):
        build(newer)
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 2)
    with pytest.raises(UnavailableError, match="NumPy 2"):
        build(bundle)
    assert not list((bundle.path / "plans").glob("*"))


@everywhere
def test_a_profile_that_the_graph_does_not_take(gpu: FakeGpu, tmp_path: Path) -> None:
    case = CASES["bn"]()
    case.graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bundle = write(case, tmp_path / "one.dni", members=2)
    with pytest.raises(UsageError, match="batch"):
        build_engine(bundle, engine_name(), BuildOptions(profile=Profile(*[(4, 3, 16, 16)] * 3)))


@everywhere
def test_a_build_that_fails_writes_nothing(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> float:
        raise EngineError("another output")

    monkeypatch.setattr("engines.trt.build.verify_members", wrong)
    assert_refused(gpu, "another output", lambda: build(bundle))
    assert not list((bundle.path / "plans").glob("*"))


def unreadable() -> Case:
    """A graph with an operator that no parser knows."""
    hand = Hand()
    case = hand.case(hand.node("Dream", [hand.conv("x", 3)]))
    case.graph.opset_import[0].version = 17
    return case


@everywhere
def test_a_graph_that_cannot_be_read(gpu: FakeGpu, tmp_path: Path) -> None:
    bundle = write(unreadable(), tmp_path / "dream.dni")
    assert_refused(gpu, "cannot read the graph.*Dream", lambda: build(bundle))


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_progress_is_reported_and_ctrl_c_ends_the_build(bundle: Bundle, gpu: FakeGpu) -> None:
    reports: list[tuple[int, int, str]] = []

    def stop(done: int, total: int, what: str) -> None:
        if total > 1:
            raise KeyboardInterrupt

    options = BuildOptions(profile=profile(bundle))
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, engine_name(), options, stop)
    assert not list((bundle.path / "plans").glob("*"))
    build_engine(bundle, engine_name(), options, lambda *given: reports.append(given))
    assert all(0 <= done <= total and total > 0 for done, total, _ in reports)
    assert reports[0][2] == "lowering the graph"
    assert reports[-1][2] == "comparing with ONNX Runtime"
    assert len(reports) > 4


@everywhere
def test_nothing_is_printed(bundle: Bundle, gpu: FakeGpu, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """stdout is for results, and Polygraphy prints there."""
    build(bundle)
    with pytest.raises(EngineError):
        build(write(unreadable(), tmp_path / "dream.dni"))
    said = capfd.readouterr()
    assert said.out == said.err == ""


@everywhere
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_the_timing_cache(damage: bytes | None, bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: Any) -> None:
    """It is written, read again, and no harm where it is damaged."""
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    build(bundle)
    (cache,) = (tmp_path / "cache" / engine_name()).glob("timing-*")
    if damage is not None:
        cache.write_bytes(damage)
    build(bundle, force=True)
    assert cache.read_bytes()


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_weights_beyond_float16(gpu: FakeGpu, tmp_path: Path) -> None:
    """8.6 keeps float32 weights and narrows them itself."""
    case = bn()
    case.members[1][case.weights[0]].reshape(-1)[0] = 1e6
    with pytest.raises(EngineError, match="beyond 65504"):
        build(write(case, tmp_path / "large.dni"), precision="fp16")


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_a_plan_for_several_gpus(bundle: Bundle, gpu: FakeGpu) -> None:
    built = build(bundle, compute_capabilities=((12, 0), (8, 9)))
    assert built.max_relative_error is not None
    assert built.max_relative_error <= 1e-5
    load_engine(bundle, engine_name()).close()
    gpu.capability = (12, 0)
    load_engine(bundle, engine_name()).close()
    gpu.capability = (8, 6)
    with pytest.raises(
        UnavailableError, match=r"was built for GPUs of compute capability 8.9, 12.0, and this is GPUs of .* 8.6"
    ):
        load_engine(bundle, engine_name())


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_a_plan_for_other_gpus_is_verified_where_it_is_opened(bundle: Bundle, gpu: FakeGpu) -> None:
    built = build(bundle, compute_capabilities=((12, 0),))
    assert built.max_relative_error is None
    assert "not verified, because this GPU is not one of those" in built.update_path
    with pytest.raises(UnavailableError, match="no plan is built for this GPU"):
        load_engine(bundle, engine_name())
    gpu.capability = (12, 0)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        assert relative_error(engine.infer(0, picture()), truth(bundle, [0.5, 0.25, 0.25], picture())) <= 1e-5


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_a_gpu_that_the_library_does_not_name(bundle: Bundle, gpu: FakeGpu) -> None:
    """Asked for by name it is refused; of this machine's own GPU the library says itself whether it builds for it."""
    with pytest.raises(UsageError, match=r"TensorRT for RTX 1.7.1.116 does not build for compute capability 9.0\."):
        build(bundle, compute_capabilities=((8, 9), (9, 0)))
    gpu.capability = (9, 0)
    assert build(bundle).max_relative_error is not None


@pytest.mark.parametrize("gpu", ["11.4", "8.6"], indirect=True)
def test_tensorrt_builds_for_this_gpu_alone(bundle: Bundle, gpu: FakeGpu) -> None:
    with pytest.raises(UsageError, match="builds for the GPU of this machine; give --device its number"):
        build(bundle, compute_capabilities=((8, 9),))


@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
def test_one_library_per_process(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polygraphy works with the one for which it was imported."""
    from polygraphy import config

    build(bundle)
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", True)
    with pytest.raises(EngineError, match="has built for another TensorRT library; build for tensorrt in a new one"):
        build(bundle, force=True)
