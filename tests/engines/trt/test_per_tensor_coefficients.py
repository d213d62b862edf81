"""Shares for each weight through the TensorRT engines, on the fake for each version, against ONNX Runtime on float64 blends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from tests.engines.conftest import write
from tests.engines.cuda.test_per_tensor_blend import blended, some_rows
from tests.engines.trt.conftest import CASES, TOLERANCE, build, everywhere, opened, picture, serialize_refitted
from tests.fakes.gpu import FakeGpu


def truth(bundle: Bundle, rows: NDArray[np.float64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows in the order of the bundle's names, whatever order its members have them in."""
    members = [{name: bundle.read_weights(member)[name] for name in bundle.weight_names} for member in bundle.members]
    return ort_session.run_session(ort_session.open_cpu_session(bundle.read_graph_with_weights(blended(members, rows))), x)


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_a_frame_by_row(case: str, precision: str, gpu: FakeGpu, tmp_path: Path) -> None:
    """Rows, one alpha and rows again, in one slot: the same bits come back."""
    bundle = write(CASES[case](), tmp_path / "case.dni", members=3)
    build(bundle, precision=precision)
    x, outputs = picture(), []
    first, second = (some_rows(len(bundle.weight_names), 3, seed) for seed in (0, 1))
    with opened(bundle) as engine:
        for rows in (first, second, np.array([0.2, 0.3, 0.5]), first):
            engine.refit(0, rows)
            outputs.append(engine.infer(0, x))
            each = np.tile(rows, (len(bundle.weight_names), 1)) if rows.ndim == 1 else rows
            assert relative_error(outputs[-1], truth(bundle, each, x)) <= TOLERANCE[precision]
    assert np.array_equal(outputs[0], outputs[3])
    assert not np.array_equal(outputs[0], outputs[1])


@everywhere
def test_frames_replayed_as_cuda_graphs(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, slots=2, cuda_graph=True) as engine:
        for step in range(4):
            rows = some_rows(len(bundle.weight_names), 3, step)
            engine.refit(step % 2, rows)
            for seed in range(3):
                x = picture(seed)
                assert relative_error(engine.infer(step % 2, x), truth(bundle, rows, x)) <= 1e-5


@everywhere
def test_rows_that_do_not_fit(bundle: Bundle, gpu: FakeGpu) -> None:
    """Nor shares that do not: refused before anything is touched, so that the slot keeps what it had."""
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([0.2, 0.3, 0.5]))
        before = engine.infer(0, picture())
        for shares, sentence in (
            (np.full((2, 3), 1 / 3), f"for {len(bundle.weight_names)} weights and 3 members"),
            (np.zeros((len(bundle.weight_names), 3)), "are all 0"),
            (np.array([0.5, 0.5]), "2 shares, 2 of them not 0, for 3 members"),
            (np.array([-400.0, 401.0, 0.0]), "variance is not positive at this alpha"),
        ):
            with pytest.raises(EngineError, match=sentence):
                engine.refit(0, shares)
            assert np.array_equal(engine.infer(0, picture()), before)


@everywhere
def test_a_plain_engine_of_one_blend(bundle: Bundle, gpu: FakeGpu) -> None:
    """What `refit -o x.plan` writes; it is compared with the engine that it came from, and two recipes give two engines."""
    build(bundle)
    rows: list[Any] = [some_rows(len(bundle.weight_names), 3, seed) for seed in (0, 1, 0)]
    first, second, again = (serialize_refitted(bundle, each) for each in rows)
    assert first == again != second
