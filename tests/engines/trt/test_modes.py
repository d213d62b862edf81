"""The four engines on the stand-in for each TensorRT: built, opened, refitted, run and closed, against float64-blended ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import BuildOptions, EngineOptions
from engines.registry import build_engine, load_engine
from tests.engines.conftest import write
from tests.engines.trt.conftest import CASES, VERSIONS, picture, profile
from tests.fakes.gpu import FakeGpu

KINDS = ("tensorrt", "tensorrt-inputs", "tensorrt-graph")
ALPHAS = ([1, 0, 0], [0, 1, 0], [0.5, 0.25, 0.25], [0, 0.7, 0.3])
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""fp32: the stand-in is ONNX Runtime as well, on weights that were blended in float32. fp16: as in engines/trt/verify.py."""

everywhere = pytest.mark.parametrize("gpu", VERSIONS, indirect=True)


def truth(bundle: Bundle, shares: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    members = [bundle.read_weights(name) for name in bundle.members]
    return ort_session.run_session(
        ort_session.open_cpu_session(bundle.read_graph_with_weights(blend_float64(members, np.array(shares, np.float64)))), x
    )


def build(bundle: Bundle, name: str = "tensorrt", **options: Any) -> Any:
    return build_engine(bundle, name, BuildOptions(**{"profile": profile(bundle), **options}))


@contextmanager
def opened(bundle: Bundle, name: str = "tensorrt", **options: Any) -> Iterator[Any]:
    engine = load_engine(bundle, name, EngineOptions(**options))
    try:
        yield engine
    finally:
        engine.close()


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_from_the_bundle_to_a_frame(case: str, name: str, precision: str, gpu: FakeGpu, tmp_path: Path) -> None:
    bundle = write(CASES[case](), tmp_path / "case.dni", members=3)
    built = build(bundle, name, precision=precision)
    assert built.error <= TOLERANCE[precision]
    assert built.plan.name.startswith(f"tensorrt-{'refit' if name == 'tensorrt' else name[9:]}-{precision}-")
    assert built.weights > 0
    with opened(bundle, name) as engine:
        assert engine.name == name
        assert engine.slots == 1
        assert engine.road.startswith("TensorRT ")
        assert precision in engine.road
        for shares in ALPHAS:
            engine.refit(0, np.array(shares, np.float64))
            for x in (picture(0), picture(1, 16, 16)):
                assert relative_error(engine.infer(0, x), truth(bundle, shares, x)) <= TOLERANCE[precision]


@everywhere
def test_the_constant_one(bundle: Bundle, gpu: FakeGpu) -> None:
    built = build(bundle, "tensorrt-constant")
    assert built.weights == 0
    with opened(bundle, "tensorrt-constant") as engine:
        engine.refit(0, np.array([0.0, 1.0, 0.0]))
        x = picture()
        assert relative_error(engine.infer(0, x), truth(bundle, [1, 0, 0], x)) <= 1e-5


@everywhere
@pytest.mark.parametrize("name", KINDS)
def test_two_slots(name: str, bundle: Bundle, gpu: FakeGpu) -> None:
    """Each has its own weights, on its own stream, whatever the other one does."""
    build(bundle, name)
    with opened(bundle, name, slots=2) as engine:
        assert engine.stream_handle(0) != engine.stream_handle(1)
        x, y = picture(0), picture(1, 8, 24)
        first, second = np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])
        engine.refit(0, first)
        engine.place(0, x)
        engine.enqueue(0)
        engine.refit(1, second)  # while slot 0 runs
        engine.place(1, y)
        engine.enqueue(1)
        assert relative_error(engine.fetch(0), truth(bundle, first, x)) <= 1e-5
        assert relative_error(engine.fetch(1), truth(bundle, second, y)) <= 1e-5
        engine.refit(0, second)
        engine.finish(0)
        assert relative_error(engine.infer(1, x), truth(bundle, second, x)) <= 1e-5


@everywhere
@pytest.mark.parametrize("name", KINDS)
def test_a_to_b_to_a(name: str, bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle, name)
    with opened(bundle, name) as engine:
        x, outputs = picture(), []
        for shares in ([1, 0, 0], [0.2, 0.3, 0.5], [1, 0, 0], [0.2, 0.3, 0.5]):
            engine.refit(0, np.array(shares, np.float64))
            outputs.append(engine.infer(0, x))
        assert np.array_equal(outputs[0], outputs[2])
        assert np.array_equal(outputs[1], outputs[3])
        assert not np.array_equal(outputs[0], outputs[1])


@everywhere
def test_every_slot_wants_a_refit_first(bundle: Bundle, gpu: FakeGpu) -> None:
    """Those that the verification left in it are nobody's."""
    build(bundle)
    with opened(bundle, slots=2) as engine:
        for slot in range(2):
            with pytest.raises(EngineError, match="no weights yet"):
                engine.infer(slot, picture())


@everywhere
def test_a_failed_refit_poisons_its_slot_alone(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, slots=2) as engine:
        x, shares = picture(), np.array([0.5, 0.25, 0.25])
        engine.refit(0, np.array([1.0, 0, 0]))
        engine.refit(1, shares)
        gpu.trt.fail = {"refit": 1}  # one weight is changed, then False
        with pytest.raises(EngineError, match="could not refit"):
            engine.refit(0, shares)
        for _ in range(2):
            with pytest.raises(EngineError, match="last refit failed"):
                engine.infer(0, x)
        assert relative_error(engine.infer(1, x), truth(bundle, shares, x)) <= 1e-5
        engine.refit(0, shares)
        assert np.array_equal(engine.infer(0, x), engine.infer(1, x))


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_a_weight_that_is_refused_poisons(bundle: Bundle, gpu: FakeGpu) -> None:
    """8.6 is given every weight at every refit."""
    build(bundle)
    with opened(bundle) as engine:
        gpu.trt.fail = {"set": 2}
        with pytest.raises(EngineError, match="could not take the weight"):
            engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(EngineError, match="last refit failed"):
            engine.infer(0, picture())
        engine.refit(0, np.array([1.0, 0, 0]))
        assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@everywhere
def test_an_alpha_that_is_refused_poisons_nothing(bundle: Bundle, gpu: FakeGpu) -> None:
    """Far enough outside 0 to 1, a BatchNorm's blended variance is not positive."""
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        before = engine.infer(0, picture())
        with pytest.raises(EngineError, match="variance"):
            engine.refit(0, np.array([40.0, -39.0, 0]))
        assert np.array_equal(engine.infer(0, picture()), before)


@everywhere
def test_a_blend_that_fails_poisons(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver refuses a launch, those before it are queued."""
    from engines.cuda.blender import DeviceBlender

    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with monkeypatch.context() as patched:
            patched.setattr(
                DeviceBlender, "enqueue_blend", lambda *_: (_ for _ in ()).throw(EngineError("The blend could not be queued."))
            )
            with pytest.raises(EngineError, match="could not be queued"):
                engine.refit(0, np.array([0, 1.0, 0]))
        with pytest.raises(EngineError, match="last refit failed"):
            engine.infer(0, picture())
        engine.refit(0, np.array([0, 1.0, 0]))
        engine.infer(0, picture())


@everywhere
def test_a_run_that_fails(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        gpu.trt.fail = {"execute": 0}
        with pytest.raises(EngineError, match="could not queue the network"):
            engine.infer(0, picture())
        assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@everywhere
@pytest.mark.parametrize("shape", [(1, 3, 32, 16), (1, 3, 4, 16), (2, 3, 16, 16)])
def test_frames_outside_the_profile(shape: tuple[int, ...], bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(UsageError, match="min 1x3x8x8, opt 1x3x16x16, max 1x3x24x24; got") as told:
            engine.infer(0, np.zeros(shape, np.float32))
        assert "--tile" in str(told.value)
        engine.infer(0, picture())


@everywhere
def test_frames_of_changing_shape(bundle: Bundle, gpu: FakeGpu) -> None:
    """Buffers grow and are kept; each output has its own frame's shape."""
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        for height, width in ((8, 8), (24, 24), (9, 21), (24, 24), (8, 24)):
            x = picture(height, height, width)
            assert relative_error(engine.infer(0, x), truth(bundle, [0.5, 0.25, 0.25], x)) <= 1e-5


@everywhere
def test_outputs_are_the_callers(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        x = picture()
        first = engine.infer(0, x)
        kept = first.copy()
        engine.infer(0, picture(5))
        assert np.array_equal(first, kept)
        x[:] = 0  # what was placed was read


@everywhere
def test_place_twice_and_nothing(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        with pytest.raises(EngineError, match="No input was placed"):
            engine.enqueue(0)
        x, y = picture(0), picture(1)
        engine.place(0, x)
        engine.place(0, y)
        engine.enqueue(0)
        assert relative_error(engine.fetch(0), truth(bundle, [1, 0, 0], y)) <= 1e-5


@everywhere
def test_closed(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    engine = load_engine(bundle, "tensorrt", EngineOptions())
    engine.close()
    engine.close()
    for call in (
        lambda: engine.refit(0, np.array([1.0, 0, 0])),
        lambda: engine.infer(0, picture()),
        lambda: engine.synchronize(0),
    ):
        with pytest.raises(EngineError, match="closed"):
            call()


@everywhere
def test_from_any_thread(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, slots=2) as engine:
        x, got = picture(), {}

        def work(slot: int) -> None:
            for step in range(6):
                shares = np.roll(np.array([1.0, 0, 0]), slot + step)
                engine.refit(slot, shares)
                got[slot, step] = (shares, engine.infer(slot, x))

        threads = [threading.Thread(target=work, args=(slot,)) for slot in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 12
        for shares, output in got.values():
            assert relative_error(output, truth(bundle, shares, x)) <= 1e-5


@everywhere
def test_build_again(bundle: Bundle, gpu: FakeGpu) -> None:
    plan = build(bundle).plan
    with pytest.raises(UsageError, match="--force"):
        build(bundle)
    assert build(bundle, force=True).plan == plan
    assert build(bundle, precision="fp16").plan != plan
    with opened(bundle, precision="fp32") as engine:
        assert "fp32" in engine.road
    with opened(bundle) as engine:
        assert "fp16" in engine.road  # the newest


@everywhere
@pytest.mark.parametrize("name", [*KINDS, "tensorrt-constant"])
def test_opening_needs_no_reference(name: str, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan keeps some of the output that ONNX Runtime expected: at 720p the CPU would take minutes for it."""
    build(bundle, name)

    def refuse(*given: Any) -> Any:
        raise AssertionError("ONNX Runtime was asked")

    monkeypatch.setattr("engines.verification.Reference.compute_reference", refuse)
    with opened(bundle, name):
        pass


@everywhere
def test_a_plan_for_another_family(gpu: FakeGpu, tmp_path: Path) -> None:
    """A refit plan serves every family on the graph; it is then compared anew."""
    case = CASES["bn"]()
    one, other = write(case, tmp_path / "one.dni", members=2), write(case, tmp_path / "other.dni", members=3)
    assert one.manifest.graph == other.manifest.graph
    plan = build(one).plan
    (other.path / "plans").mkdir()
    (other.path / "plans" / plan.name).write_bytes(plan.read_bytes())
    (other.path / "plans" / plan.name).chmod(0o600)
    with opened(other) as engine:
        engine.refit(0, np.array([0, 0, 1.0]))
        assert relative_error(engine.infer(0, picture()), truth(other, [0, 0, 1], picture())) <= 1e-5


@everywhere
def test_no_plan(bundle: Bundle, gpu: FakeGpu) -> None:
    from engines.trt import open_inputs, open_refit

    with pytest.raises(UnavailableError, match="--engine tensorrt --precision fp16") as told:
        open_refit(bundle, EngineOptions(precision="fp16"))
    assert not isinstance(told.value, EngineError)  # auto passes it over
    with pytest.raises(UnavailableError, match="--engine tensorrt-inputs"):
        open_inputs(bundle, EngineOptions())


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_a_plan_without_weights(bundle: Bundle, gpu: FakeGpu) -> None:
    whole, stripped = build(bundle).plan, build(bundle, strip=True).plan
    assert whole != stripped
    with opened(bundle) as engine:  # the newest is the stripped one
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        assert relative_error(engine.infer(0, picture()), truth(bundle, [0.5, 0.25, 0.25], picture())) <= 1e-5


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_what_8_6_cannot(bundle: Bundle, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="without --strip"):
        build(bundle, strip=True)
    case = CASES["bn"]()
    case.graph.opset_import[0].version = 18
    newer = write(case, tmp_path / "newer.dni", members=2)
    with pytest.raises(EngineError, match="export with --opset 17"):
        build(newer)
    monkeypatch.setattr("engines.trt.features.NUMPY_MAJOR_VERSION", 2)
    with pytest.raises(UnavailableError, match="NumPy 2"):
        build(bundle)
    assert not list((bundle.path / "plans").glob("*"))


@everywhere
def test_a_refitted_engine_as_bytes(bundle: Bundle, gpu: FakeGpu) -> None:
    from engines.trt import serialize_refitted

    build(bundle)
    shares = np.array([0.25, 0.5, 0.25])
    data = serialize_refitted(bundle, shares)
    assert isinstance(data, bytes)
    assert data != serialize_refitted(bundle, np.array([1.0, 0, 0]))


@everywhere
def test_a_profile_that_the_graph_does_not_take(gpu: FakeGpu, tmp_path: Path) -> None:
    case = CASES["bn"]()
    case.graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bundle = write(case, tmp_path / "one.dni", members=2)
    with pytest.raises(UsageError, match="batch"):
        build_engine(
            bundle, "tensorrt", BuildOptions(profile=type(profile(bundle)).from_shapes(bundle.signature, None, (4, 3, 16, 16)))
        )
