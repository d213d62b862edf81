"""The rules of the fake TensorRT, and the misuse that it must detect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.gpu import FakeGpu, install

VERSIONS = ("8.6", "10.16", "11.4")
WEIGHTS = {"w": (2, 1, 1, 1), "b": (2,), "slope": (2, 1, 1)}


def network(kind: int = TensorProto.FLOAT, extra: list[onnx.NodeProto] | None = None, **held: Any) -> bytes:
    """y = prelu(conv(x, w) + b, slope) of frames (1, 1, H, W); input and output are float32."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    initializers = [numpy_helper.from_array(np.ones(shape, dtype), name) for name, shape in WEIGHTS.items()]
    initializers += [numpy_helper.from_array(value, name) for name, value in held.items()]
    cast = kind != TensorProto.FLOAT
    nodes = [helper.make_node("Cast", ["x"], ["x0"], to=kind)] if cast else []
    nodes += [
        helper.make_node("Conv", ["x0" if cast else "x", "w", "b"], ["c"]),
        helper.make_node("PRelu", ["c", "slope"], ["p"] if cast or extra else ["y"]),
        *(extra or []),
    ]
    if cast:
        nodes.append(helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, "h", "w"])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Bench:
    """A context and common steps of the tests below. `close` releases the objects."""

    def __init__(self, fake: FakeGpu) -> None:
        import pycuda.driver as cuda
        import tensorrt as trt

        self.fake, self.cuda, self.trt = fake, cuda, trt
        cuda.init()
        self.primary = cuda.Device(0).retain_primary_context()
        self.primary.push()
        self.logger = trt.Logger(trt.Logger.ERROR)
        self.allocations: list[Any] = []

    def build(self, model: bytes, *flags: str, refittable: tuple[str, ...] = ()) -> bytes | None:
        """Builds through Polygraphy, as the product does."""
        from polygraphy.backend.trt import (
            CreateConfig,
            EngineBytesFromNetwork,
            NetworkFromOnnxBytes,
            PostprocessConfig,
            Profile,
        )

        def postprocess(builder: Any, network: Any, config: Any) -> None:
            for flag in flags:
                config.set_flag(getattr(self.trt.BuilderFlag, flag))
            for name in refittable:
                assert network.mark_weights_refittable(name)

        profile = Profile().add("x", min=(1, 1, 1, 1), opt=(1, 1, 2, 2), max=(1, 1, 4, 4))
        config = PostprocessConfig(CreateConfig(profiles=[profile]), postprocess)
        from polygraphy.exception import PolygraphyException

        try:
            return bytes(EngineBytesFromNetwork(NetworkFromOnnxBytes(model), config=config)())
        except PolygraphyException:
            return None

    def engine(self, plan: bytes | None) -> Any:
        assert plan is not None
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def memory(self, value: NDArray[Any]) -> int:
        allocation = self.cuda.mem_alloc(value.nbytes)
        self.cuda.memcpy_htod(allocation, value)
        self.cuda.Context.synchronize()
        self.allocations.append(allocation)
        return int(allocation)

    def context(self, engine: Any, x: NDArray[np.float32]) -> tuple[Any, int]:
        """Returns a context with its input, and the address of its output."""
        context = engine.create_execution_context()
        assert context.set_input_shape("x", x.shape)
        shape = context.get_tensor_shape("y")
        assert tuple(shape) == (1, 2, *x.shape[2:])
        out = self.memory(np.zeros(shape, np.float32))
        assert context.set_tensor_address("x", self.memory(x))
        assert context.set_tensor_address("y", out)
        return context, out

    def fetch(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        out = np.empty(shape, np.float32)
        self.cuda.memcpy_dtoh(out, address)
        return out

    def give(self, refitter: Any, value: float, dtype: Any = np.float32) -> None:
        """Sets all weights, from device memory if the version supports it."""
        for name, shape in WEIGHTS.items():
            full = np.full(shape, value, dtype)
            if self.fake.tensorrt == "8.6":
                assert refitter.set_named_weights(name, self.trt.Weights(full))
            else:
                kind = refitter.get_weights_prototype(name).dtype
                weights = self.trt.Weights(kind, self.memory(full), full.size)
                assert refitter.set_named_weights(name, weights, self.trt.TensorLocation.DEVICE)

    def close(self) -> None:
        for one in self.allocations:
            one.free()
        self.primary.detach()


@pytest.fixture(params=VERSIONS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    instance = Bench(install(monkeypatch, tensorrt=request.param))
    yield instance
    instance.close()


newer = pytest.mark.parametrize("bench", ["10.16", "11.4"], indirect=True)
newest = pytest.mark.parametrize("bench", ["11.4"], indirect=True)
oldest = pytest.mark.parametrize("bench", ["8.6"], indirect=True)
X = np.array([[[[1, -1]]]], np.float32)


def refit(bench: Bench, refitter: Any, stream: Any) -> bool:
    return bool(
        refitter.refit_cuda_engine() if bench.fake.tensorrt == "8.6" else refitter.refit_cuda_engine_async(stream.handle)
    )


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_build_refit_and_run(bench: Bench, kind: int) -> None:
    engine = bench.engine(bench.build(network(kind), "REFIT"))
    assert engine.refittable
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["x", "y"]
    assert engine.get_tensor_dtype("y") == bench.trt.DataType.FLOAT
    refitter, stream = bench.trt.Refitter(engine, bench.logger), bench.cuda.Stream(1)
    assert refitter.get_all_weights() == ["w", "b", "slope"]
    for value in (2.0, 3.0, 2.0):
        bench.give(refitter, value, helper.tensor_dtype_to_np_dtype(kind))
        survives = bench.fake.tensorrt != "8.6"
        context, out = bench.context(engine, X) if survives else (None, 0)
        assert refit(bench, refitter, stream)
        context, out = (context, out) if survives else bench.context(engine, X)
        assert context.execute_async_v3(stream.handle)
        if survives:
            assert np.isnan(bench.fetch(out, (1,))[0]) or bench.fetch(out, (1,))[0] == 0  # still queued
        stream.synchronize()
        # exact in both types: small whole numbers
        assert bench.fetch(out, (1, 2, 1, 2))[0, 0].tolist() == [[2 * value, value * 0.0]]
    assert bench.fake.violations == []


def test_weight_names_follow_the_version(bench: Bench) -> None:
    """BatchNorm's own names are not refittable; a plugin's InstanceNorm has none; shapes are no weights."""
    one = np.ones(2, np.float32)
    extra = [
        helper.make_node("BatchNormalization", ["p", "gamma", "beta", "mean", "variance"], ["n"]),
        helper.make_node("InstanceNormalization", ["n", "scale", "shift"], ["i"]),
        helper.make_node("Resize", ["i", "", "scales"], ["r"]),
        helper.make_node("Mul", ["r", "gain"], ["y"]),
    ]
    held = dict.fromkeys(("gamma", "beta", "mean", "variance", "scale", "shift"), one)
    model = network(extra=extra, scales=np.ones(4, np.float32), gain=np.ones((), np.float32), **held)
    engine = bench.engine(bench.build(model, "REFIT"))
    names = set(bench.trt.Refitter(engine, bench.logger).get_all_weights())
    prefix = "tmp_weight" if bench.fake.tensorrt == "8.6" else "tmp_refittable_weight"
    normal = set() if bench.fake.tensorrt == "8.6" else {"scale", "shift"}
    assert names == {"w", "b", "slope", "gain", prefix, f"{prefix}_0"} | normal


def test_invalid_weights_are_refused(bench: Bench) -> None:
    engine = bench.engine(bench.build(network(), "REFIT"))
    refitter, weights = bench.trt.Refitter(engine, bench.logger), bench.trt.Weights
    assert not refitter.set_named_weights("w2", weights(np.ones(2, np.float32)))
    assert not refitter.set_named_weights("w", weights(np.ones(3, np.float32)))
    assert not refitter.set_named_weights("w", weights(np.ones(2, np.float16)))
    assert not refitter.refit_cuda_engine()  # nothing was set
    assert refitter.set_named_weights("w", weights(np.ones(2, np.float32)))
    assert refitter.get_missing_weights() == ["b"]
    assert not refitter.refit_cuda_engine()


def test_engine_without_refit_flag_cannot_be_refitted(bench: Bench) -> None:
    engine = bench.engine(bench.build(network()))
    assert not engine.refittable
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        bench.trt.Refitter(engine, bench.logger)


def test_plan_is_valid_for_one_version(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.build(network())
    assert plan is not None
    runtime = bench.trt.Runtime(bench.logger)
    assert runtime.deserialize_cuda_engine(plan[:-1]) is None
    bench.fake.tensorrt = "9.3"
    assert runtime.deserialize_cuda_engine(plan) is None
    bench.fake.tensorrt = bench.trt.__version__


def test_invalid_shapes_and_addresses_are_refused(bench: Bench) -> None:
    context = bench.engine(bench.build(network())).create_execution_context()
    stream = bench.cuda.Stream(1)
    assert not context.set_input_shape("x", (1, 1, 5, 1))
    assert not context.execute_async_v3(stream.handle)
    assert context.set_input_shape("x", (1, 1, 2, 1))
    assert not context.execute_async_v3(stream.handle)  # no addresses
    assert not context.set_tensor_address("z", 1 << 20)


@newest
def test_individually_refittable_weights(bench: Bench) -> None:
    engine = bench.engine(bench.build(network(), "REFIT_INDIVIDUAL", refittable=("w", "b")))
    assert bench.trt.Refitter(engine, bench.logger).get_all_weights() == ["w", "b"]
    assert bench.build(network(), "REFIT_INDIVIDUAL", "REFIT") is None


@newer
def test_stripped_plan_needs_all_weights(bench: Bench) -> None:
    engine = bench.engine(bench.build(network(), "REFIT", "STRIP_PLAN"))
    context, _ = bench.context(engine, X)
    stream = bench.cuda.Stream(1)
    context.execute_async_v3(stream.handle)
    assert "stripped" in bench.fake.violations.pop()
    refitter = bench.trt.Refitter(engine, bench.logger)
    assert refitter.get_missing_weights() == ["w", "b", "slope"]
    stream.synchronize()
    bench.give(refitter, 1)
    assert refitter.refit_cuda_engine_async(stream.handle)
    stream.synchronize()
    assert context.execute_async_v3(stream.handle)
    stream.synchronize()
    assert bench.fake.violations == []


def ready(bench: Bench) -> tuple[Any, Any, Any, int]:
    """Returns an engine with weights set, a context with its input, and the output's address."""
    engine = bench.engine(bench.build(network(), "REFIT"))
    refitter = bench.trt.Refitter(engine, bench.logger)
    bench.give(refitter, 2)
    context, out = bench.context(engine, X)
    return engine, refitter, context, out


@newest
def test_interrupted_refit_leaves_mixed_weights(bench: Bench) -> None:
    _, refitter, context, out = ready(bench)
    stream = bench.cuda.Stream(1)
    bench.fake.trt.fail["refit"] = 1
    assert not refitter.refit_cuda_engine_async(stream.handle)
    assert context.execute_async_v3(stream.handle)
    stream.synchronize()
    assert bench.fetch(out, (4,)).tolist() == [3, -1, 3, -1]  # w is 2, b and slope are still 1
    bench.fake.trt.fail["set"] = 1
    weights = bench.trt.Weights(np.ones(2, np.float32))
    assert [refitter.set_named_weights("w", weights) for _ in range(3)] == [True, False, True]


@newest
def test_refit_reads_device_weights_when_it_runs(bench: Bench) -> None:
    _, refitter, context, out = ready(bench)
    stream, other = bench.cuda.Stream(1), bench.cuda.Stream(1)
    assert refitter.refit_cuda_engine_async(stream.handle)
    bench.cuda.memcpy_htod_async(bench.allocations[0], np.full(2, 7, np.float32), other)
    other.synchronize()
    assert context.execute_async_v3(stream.handle)
    stream.synchronize()
    assert bench.fetch(out, (1,))[0] == 9


@newest
def test_refit_concurrent_with_pending_work_is_reported(bench: Bench) -> None:
    engine, refitter, context, _ = ready(bench)
    stream, other, event = bench.cuda.Stream(1), bench.cuda.Stream(1), bench.cuda.Event()
    assert context.execute_async_v3(stream.handle)
    refitter.refit_cuda_engine_async(other.handle)
    assert "pending on another stream" in bench.fake.violations.pop()
    bench.cuda.Context.synchronize()
    context.execute_async_v3(stream.handle)
    refitter.refit_cuda_engine()
    assert "while work of its engine is pending" in bench.fake.violations.pop()
    stream.synchronize()
    refitter.refit_cuda_engine_async(stream.handle)
    context.execute_async_v3(other.handle)
    assert "a refit of its engine is pending" in bench.fake.violations.pop()
    bench.cuda.Context.synchronize()
    refitter.refit_cuda_engine_async(stream.handle)
    engine.create_execution_context()
    assert "create_execution_context while a refit" in bench.fake.violations.pop()
    event.record(stream)
    other.wait_for_event(event)
    context.execute_async_v3(other.handle)
    assert bench.fake.violations == []
    context.execute_async_v3(stream.handle)
    assert "the same context" in bench.fake.violations.pop()
    bench.cuda.Context.synchronize()


@newest
def test_freed_weights_and_outputs_are_reported(bench: Bench) -> None:
    _, refitter, context, _ = ready(bench)
    stream = bench.cuda.Stream(1)
    refitter.refit_cuda_engine_async(stream.handle)
    bench.allocations.pop(0).free()
    stream.synchronize()
    assert "weights w" in bench.fake.violations.pop()
    context.execute_async_v3(stream.handle)
    bench.allocations.pop().free()
    stream.synchronize()
    assert "tensor x" in bench.fake.violations.pop()


@oldest
def test_contexts_of_86_are_stale_after_a_refit(bench: Bench) -> None:
    engine, refitter, context, _ = ready(bench)
    stream = bench.cuda.Stream(1)
    assert refitter.refit_cuda_engine()
    context.execute_async_v3(stream.handle)
    assert "made before a refit" in bench.fake.violations.pop()
    stream.synchronize()
    fresh, _ = bench.context(engine, X)
    assert fresh.execute_async_v3(stream.handle)
    stream.synchronize()
    assert bench.fake.violations == []


@pytest.mark.parametrize("sees", [True, False])
@newest
def test_captured_execution_replays_the_weights(bench: Bench, sees: bool) -> None:
    import ctypes

    from engines.cuda import driver

    library: Any = driver.load_driver_library()
    bench.fake.trt.graphs_see_refits = sees
    _, refitter, context, out = ready(bench)
    stream = bench.cuda.Stream(1)
    graph, runnable, handle = ctypes.c_void_p(), ctypes.c_void_p(), stream.handle
    assert library.cuStreamBeginCapture_v2(handle, 0) == 0
    assert not context.execute_async_v3(handle)
    assert "has not run at these shapes" in bench.fake.violations.pop()
    assert not refitter.refit_cuda_engine_async(handle)
    assert "being captured" in bench.fake.violations.pop()
    assert library.cuStreamEndCapture(handle, ctypes.byref(graph)) == 0
    library.cuGraphDestroy(graph)
    assert context.execute_async_v3(handle)
    assert library.cuStreamBeginCapture_v2(handle, 0) == 0
    assert context.execute_async_v3(handle)
    assert library.cuStreamEndCapture(handle, ctypes.byref(graph)) == 0
    assert library.cuGraphInstantiateWithFlags(ctypes.byref(runnable), graph, 0) == 0
    assert refitter.refit_cuda_engine_async(handle)
    assert library.cuGraphLaunch(runnable, handle) == 0
    stream.synchronize()
    assert bench.fetch(out, (1,))[0] == (4 if sees else 2)
    assert bench.fake.violations == []
    del context
    library.cuGraphLaunch(runnable, handle)
    assert "the execution context in it was destroyed" in bench.fake.violations.pop()
    stream.synchronize()
    assert "while its work was pending" in bench.fake.violations.pop()
    library.cuGraphDestroy(graph)
    library.cuGraphExecDestroy(runnable)


def test_missing_cuda_context_is_reported(bench: Bench) -> None:
    plan = bench.build(network())
    bench.cuda.Context.pop()
    assert bench.trt.Runtime(bench.logger).deserialize_cuda_engine(plan) is None
    assert all("without a current CUDA context" in sentence for sentence in bench.fake.violations)
    assert len(bench.fake.violations) == 2
    bench.primary.push()


def test_unreleased_objects_are_leaks(bench: Bench) -> None:
    engine = bench.engine(bench.build(network()))
    assert any("1 ICudaEngine" in leak for leak in bench.fake.leaks())
    del engine
    assert not any("ICudaEngine" in leak for leak in bench.fake.leaks())


def test_attributes_of_other_versions_are_absent(bench: Bench) -> None:
    trt, old = bench.trt, bench.fake.tensorrt == "8.6"
    assert hasattr(trt.Refitter, "refit_cuda_engine_async") is not old
    assert hasattr(trt.Refitter, "release_refit_resources") is (bench.fake.tensorrt == "11.4")
    assert hasattr(trt, "IProgressMonitor") is not old
    assert hasattr(trt.BuilderFlag, "FP16") is (bench.fake.tensorrt != "11.4")
    assert hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") is (bench.fake.tensorrt != "11.4")
    if old:
        with pytest.raises(TypeError):
            trt.Weights(trt.DataType.FLOAT, 1, 1)
