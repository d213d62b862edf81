"""The table of per-tensor coefficients: which row goes where, what is refused, and that an unchanged table is not uploaded again."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError
from engines.cuda.layout import DeviceLayout
from tests.engines.cuda import family
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True

NAMES = tuple(family.members(1)[0])


def some_rows(members: int = 3) -> np.ndarray:
    rows = np.random.default_rng(0).uniform(0.1, 1.0, (len(NAMES), members))
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


@pytest.fixture
def layout() -> DeviceLayout:
    return DeviceLayout.from_lowered(family.lowered())  # type: ignore[arg-type]


def test_a_packed_table_holds_each_tensors_row(layout: DeviceLayout, gpu: FakeGpu) -> None:
    """First the BatchNorms' tensors as float64, then the weights' as float32, of the members that are used alone."""
    from engines.cuda.per_tensor_coefficients import TensorOffsets

    rows, used = some_rows(), np.array([0, 2])
    data, offset = TensorOffsets(layout, NAMES).pack_table(rows, used)
    statistics = [rows[NAMES.index(name)][used] for name in layout.statistics_tensors()]
    weights = [rows[NAMES.index(name)][used] for name in layout.source_tensors()]
    assert np.array_equal(np.frombuffer(data[:offset]).reshape(-1, 2), statistics)
    assert np.array_equal(np.frombuffer(data[offset:], np.float32).reshape(-1, 2), np.float32(weights))


def test_variances_are_blended_by_the_variances_own_rows(layout: DeviceLayout, gpu: FakeGpu) -> None:
    from engines.cuda.per_tensor_coefficients import TensorOffsets

    rows, members = some_rows(), family.members(3)
    folds = layout.folds
    variance = np.stack([np.concatenate([tensors[fold.variance] for fold in folds]) for tensors in members]).astype(np.float64)
    expected = [rows[NAMES.index(fold.variance)] @ [tensors[fold.variance] for tensors in members] for fold in folds]
    blended = TensorOffsets(layout, NAMES).blend_variance(rows, variance)
    np.testing.assert_allclose(blended, np.concatenate(expected), rtol=1e-12)  # float64 sums in another order
    rows[:, 1] = 0
    variance[1] = np.nan  # of a member that is not used
    assert np.isfinite(TensorOffsets(layout, NAMES).blend_variance(rows, variance)).all()


def test_coefficients_that_do_not_fit_are_refused(layout: DeviceLayout, gpu: FakeGpu) -> None:
    from engines.cuda.per_tensor_coefficients import TensorOffsets

    offsets, rows = TensorOffsets(layout, NAMES), some_rows()
    offsets.check_coefficients(rows, 3)
    for wrong, members in ((rows[1:], 3), (rows, 2)):
        with pytest.raises(EngineError, match=f"for {len(NAMES)} weights and {members} members"):
            offsets.check_coefficients(wrong, members)
    rows[2] = 0
    with pytest.raises(EngineError, match=f"'{NAMES[2]}' are all 0"):
        offsets.check_coefficients(rows, 3)


def test_an_unchanged_table_is_not_uploaded_again(layout: DeviceLayout, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none within a capture: the graph would copy from this memory at every launch."""
    from engines.cuda import cuda_graph
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer
    from engines.cuda.per_tensor_coefficients import CoefficientTable

    uploads: list[int] = []
    real = Buffer.upload

    def count(self: Buffer, array: np.ndarray, *more: object) -> None:
        uploads.append(array.nbytes)
        real(self, array, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Buffer, "upload", count)
    device = Device.open()
    with device:
        table, stream = CoefficientTable(device, layout), device.create_stream()
        address = table.upload(b"1234", stream)
        assert table.upload(b"1234", stream) == address
        assert uploads == [4]
        cuda_graph.begin_capture(stream.handle)
        assert table.upload(b"1234", stream) == address
        with pytest.raises(EngineError, match="cannot be new within a CUDA graph"):
            table.upload(b"5678", stream)
        cuda_graph.abort_capture()
        stream.synchronize()
        table.free()
        del stream
    device.close()
