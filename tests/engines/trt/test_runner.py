"""The runner: frames in and out of one execution context, its buffers, and when a CUDA graph is captured and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from tests.engines.trt.conftest import build, everywhere, identity_of, library, picture, profile, truth
from tests.fakes.gpu import FakeGpu


@contextmanager
def running(bundle: Bundle, *, replay: bool = False, fixed_addresses: Any = None) -> Iterator[Any]:
    """A runner on an engine with the first member's weights; the device is held."""
    from engines.cuda.device import Device
    from engines.trt.execution_contexts import ExecutionContexts
    from engines.trt.plan import read_plan
    from engines.trt.runner import Runner

    plan = read_plan(build(bundle).plan_path, identity_of(bundle))
    device = Device.open()
    try:
        with device:
            runtime, stream, runner = library().trt.Runtime(library().logger), device.create_stream(), None
            engine, contexts = library().deserialize_engine(runtime, plan.engine), ExecutionContexts(device, library(), "key")
            try:
                runner = Runner(device, contexts, engine, stream, profile(bundle), fixed_addresses, replay=replay)
                runner.create_context()
                yield runner
            finally:
                stream.synchronize()
                if runner is not None:
                    runner.close()
                    runner.close()  # does nothing
                contexts.close()
                contexts.close()
                del runner, engine, runtime, stream
    finally:
        device.close()


@everywhere
def test_a_frame_of_each_shape(bundle: Bundle, gpu: FakeGpu) -> None:
    """Buffers grow to the largest frame and are kept: smaller ones after it use the same memory."""
    with running(bundle) as runner:
        for height, width in ((8, 8), (24, 24), (8, 24), (8, 8)):
            x = picture(height, height, width)
            runner.upload(x)
            runner.enqueue()
            output = runner.download()
            assert relative_error(output, truth(bundle, [1, 0, 0], x)) <= 1e-5  # the fake is ONNX Runtime, in float32
            pointer = runner._buffers["in"].pointer
        assert runner._buffers["in"].pointer == pointer
        assert runner._buffers["in"].nbytes == 4 * 3 * 24 * 24


@everywhere
def test_calls_out_of_order_are_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    with running(bundle) as runner:
        with pytest.raises(EngineError, match="Nothing was run; upload an input and enqueue first"):
            runner.download()
        with pytest.raises(EngineError, match="No input was uploaded"):
            runner.enqueue()
        with pytest.raises(UsageError, match="got 1x3x4x4"):
            runner.upload(picture(0, 4, 4))
        runner.upload(picture())
        runner.enqueue()
        runner.reset()
        with pytest.raises(EngineError, match="No input was uploaded"):
            runner.enqueue()
        with pytest.raises(EngineError, match="Nothing was run"):
            runner.download()


@pytest.mark.parametrize("gpu", ["11.4"], indirect=True)
def test_a_graph_is_captured_at_the_second_frame_of_a_shape(bundle: Bundle, gpu: FakeGpu) -> None:
    """It is dropped with the shape and by a refit, unless it is known to see refitted weights."""
    with running(bundle, replay=True) as runner:

        def run(x: np.ndarray) -> bool:
            runner.upload(x)
            runner.enqueue()
            runner.download()
            return bool(runner.has_captured_graph)

        assert [run(picture()), run(picture(1)), run(picture(2))] == [False, True, True]
        assert [run(picture(0, 8, 8)), run(picture(0, 8, 8))] == [False, True]
        runner.invalidate_graph()
        assert not runner.has_captured_graph
        assert [run(picture(0, 8, 8)), run(picture(0, 8, 8))] == [False, True]
        runner.keep_graph_over_refit = True
        runner.invalidate_graph()
        assert runner.has_captured_graph


@everywhere
def test_an_engine_with_other_inputs_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    with (
        pytest.raises(EngineError, match="and not those of the bundle; build it again"),
        running(bundle, fixed_addresses={"nobody": 256}),
    ):
        pass
