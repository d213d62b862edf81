"""What `engines/interface.py` promises of every engine, on every engine: one network, the GPU's on stand-ins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, MismatchError, UsageError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import Engine, EngineOptions
from tests.engines.conftest import open_cpu_engine, write
from tests.engines.onnxruntime_gpu.conftest import on_cpu
from tests.engines.trt.conftest import bn, build, picture
from tests.fakes.gpu import install

MAX_ERROR = 1e-5
"""Of the output's largest value: the engines blend and add in other orders, in float32; measured 1e-7 to 1e-6."""
FAKE_GPUS: dict[str, dict[str, Any]] = {"tensorrt": {}, "onnxruntime-gpu": {"tensorrt": None, "eager": True}}
A, B = np.array([0.25, 0.25, 0.5]), np.array([0.5, 0.5, 0.0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(bn(), tmp_path_factory.mktemp("contract") / "bn.dni", members=3)


@pytest.fixture(scope="module", params=["onnxruntime", "onnxruntime-rebuild", "onnxruntime-gpu", "tensorrt"])
def opened(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Engine]:
    """An engine of two slots, which the tests of one engine share."""
    name: str = request.param
    if name not in FAKE_GPUS:
        engine = open_cpu_engine(bundle, name)
        yield engine
        engine.close()
        return
    with pytest.MonkeyPatch.context() as patch:
        fake = install(patch, **FAKE_GPUS[name])
        options = EngineOptions(threads=1, slots=2)
        if name == "tensorrt":
            build(bundle)
            from engines.trt.load import open_engine as open_on_gpu
        else:
            on_cpu(patch)
            from engines.onnxruntime_gpu.load import open_bound as open_on_gpu
        engine = open_on_gpu(bundle, options)
        yield engine
        engine.close()
        fake.check()


@pytest.fixture
def engine(opened: Engine) -> Engine:
    """The engine, with a blend of its own in each slot."""
    opened.refit(0, A)
    opened.refit(1, B)
    return opened


def reference(bundle: Bundle, coefficients: NDArray[np.float64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort_session.open_blended_session(bundle.read_graph(), bundle.read_all_weights(), coefficients, threads=1)
    return ort_session.run_session(session, x)


def test_a_slot_without_a_refit_refuses_a_frame(opened: Engine) -> None:
    """The first test of each engine: the weights of the verification are not left in it."""
    for slot in range(opened.slots):
        with pytest.raises(EngineError, match=f"Slot {slot}"):
            opened.infer(slot, picture())


def test_it_names_itself_and_its_update_path(engine: Engine, request: pytest.FixtureRequest) -> None:
    assert engine.name == request.node.callspec.params["opened"]
    assert engine.update_path
    assert engine.slots == 2


@pytest.mark.parametrize("coefficients", [[0.2, 0.3, 0.5], [0.0, 0.6, 0.4], [0.0, 1.0, 0.0]])
def test_it_computes_the_blend_in_every_slot(engine: Engine, bundle: Bundle, coefficients: list[float]) -> None:
    row = np.array(coefficients)
    for slot, x in enumerate((picture(0), picture(1, 8, 24))):
        engine.refit(slot, row)
        engine.synchronize(slot)
        assert relative_error(engine.infer(slot, x), reference(bundle, row, x)) <= MAX_ERROR


def test_it_computes_the_blend_of_each_weight(engine: Engine, bundle: Bundle) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), len(bundle.weight_names))
    engine.refit(0, rows)
    assert relative_error(engine.infer(0, picture()), reference(bundle, rows, picture())) <= MAX_ERROR


def test_equal_rows_give_the_bytes_of_one_row(engine: Engine, bundle: Bundle) -> None:
    expected = engine.infer(0, picture())
    engine.refit(0, np.tile(A, (len(bundle.weight_names), 1)))
    np.testing.assert_array_equal(engine.infer(0, picture()), expected)


def test_slots_are_apart_and_a_blend_comes_back_bit_for_bit(engine: Engine) -> None:
    first, second = engine.infer(0, picture()), engine.infer(1, picture())
    assert not np.array_equal(first, second)
    for coefficients in (B, A):
        engine.refit(0, coefficients)
    np.testing.assert_array_equal(engine.infer(0, picture()), first)
    np.testing.assert_array_equal(engine.infer(1, picture()), second)


def test_coefficients_and_frames_are_the_callers(engine: Engine) -> None:
    """Neither is changed or read after the call, and each output is an array of its own."""
    x, row = picture(), A.copy()
    engine.refit(0, row)
    np.testing.assert_array_equal(row, A)
    row[:] = np.nan
    first = engine.infer(0, x)
    kept = first.copy()
    np.testing.assert_array_equal(x, picture())
    engine.infer(0, picture(1))
    np.testing.assert_array_equal(first, kept)


FRAME_DTYPES = (np.uint8, np.uint16, np.float32)


def make_frame(dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Of an odd height or width."""
    random, size = np.random.default_rng(seed), (9 + seed % 5, 13 - seed % 4, 3)
    return random.random(size, np.float32) if dtype == np.float32 else random.integers(0, 256, size, dtype)


def reference_frame(engine: Engine, slot: int, frame: NDArray[Any], signature: Signature) -> NDArray[Any]:
    return frames.from_network(engine.infer(slot, frames.to_network(frame, signature)), frame, signature)


@pytest.mark.parametrize("dtype", FRAME_DTYPES)
def test_render_is_the_reference_around_infer(engine: Engine, bundle: Bundle, dtype: Any) -> None:
    for seed in range(4):
        frame = make_frame(dtype, seed)
        before = frame.copy()
        got = engine.render(seed % 2, frame, bundle.signature)
        np.testing.assert_array_equal(frame, before)
        assert got.dtype == frame.dtype
        assert got.flags.writeable
        np.testing.assert_array_equal(got, reference_frame(engine, seed % 2, frame, bundle.signature))


def test_frames_of_several_threads_in_one_slot(engine: Engine, bundle: Bundle) -> None:
    inputs = [make_frame(FRAME_DTYPES[seed % 3], seed) for seed in range(12)]
    expected = [reference_frame(engine, 0, frame, bundle.signature) for frame in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(
            pool.map(lambda frame: engine.render(0, frame, bundle.signature), inputs), expected, strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_a_frame_that_makes_no_finite_output_is_an_error_and_the_next_one_renders(engine: Engine, bundle: Bundle) -> None:
    frame = make_frame(np.float32)
    expected = engine.render(0, frame, bundle.signature)
    with pytest.raises(EngineError, match="NaN or infinite"):
        engine.render(0, np.full_like(frame, np.nan), bundle.signature)
    np.testing.assert_array_equal(engine.render(0, frame, bundle.signature), expected)


def test_what_is_no_frame_or_network_of_frames_is_refused(engine: Engine, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="A frame is a uint8, uint16 or float32 array"):
        engine.render(0, np.zeros((9, 9)), bundle.signature)  # type: ignore[arg-type]
    with pytest.raises(MismatchError):
        engine.render(0, make_frame(np.uint8), replace(bundle.signature, output_channels=1))


def test_an_input_that_does_not_fit_is_refused_and_the_next_one_runs(engine: Engine) -> None:
    expected = engine.infer(0, picture())
    with pytest.raises((EngineError, UsageError), match=r"1, 7, 12, 20|1x7x12x20"):
        engine.infer(0, np.zeros((1, 7, 12, 20), np.float32))
    np.testing.assert_array_equal(engine.infer(0, picture()), expected)


def test_a_refit_is_logged_at_debug_and_a_frame_not_at_info(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "engines"):
        engine.refit(1, A)
    [record] = [record for record in caplog.records if "slot 1" in record.message]
    assert record.levelno == logging.DEBUG
    assert record.message.endswith(" ms")
    caplog.clear()
    with caplog.at_level(logging.INFO, "engines"):
        engine.refit(0, A)
        engine.infer(0, picture())
    assert caplog.records == []


def test_closing_twice_is_harmless_and_a_closed_engine_refuses(engine: Engine, bundle: Bundle) -> None:
    """The last test of each engine."""
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        engine.infer(0, picture())
    with pytest.raises(EngineError):
        engine.render(0, make_frame(np.uint8), bundle.signature)
