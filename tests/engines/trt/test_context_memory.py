"""Contexts share one buffer, as large as the largest frame so far, and their runs follow each other in it."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.utils.compare_arrays import relative_error
from tests.engines.trt.conftest import build, opened, picture, truth
from tests.fakes.gpu import FakeGpu

with_shared_memory = pytest.mark.parametrize("gpu", ["11.4", "10.16", "rtx-1.7"], indirect=True)


@with_shared_memory
def test_slots_share_memory_that_grows_with_the_frames(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.verification.VERIFICATION_SIDE_PX", 8)
    build(bundle)
    with opened(bundle, slots=2) as engine:
        memory = engine._contexts.memory
        sizes = []
        for slot, side in ((0, 8), (1, 24), (0, 12), (0, 8), (1, 8)):
            engine.refit(slot, np.array([0.5, 0.25, 0.25]))
            x = picture(side, side, side)
            assert relative_error(engine.infer(slot, x), truth(bundle, [0.5, 0.25, 0.25], x)) <= 1e-5
            sizes.append(memory._buffer.nbytes)
        addresses = {buffers.runner._context._memory for buffers in engine._buffer_sets}
    assert sizes[1] > sizes[0]
    assert sizes[1:] == [sizes[1]] * 4
    assert len(addresses) == 1


@with_shared_memory
def test_a_graph_does_not_outlive_the_memory_that_it_knows(bundle: Bundle, gpu: FakeGpu) -> None:
    """Another slot has the memory grow while this one replays."""
    build(bundle)
    with opened(bundle, slots=2, cuda_graph=True) as engine:
        for slot in (0, 1):
            engine.refit(slot, np.array([0.5, 0.25, 0.25]))
        small, large = picture(1, 8, 8), picture(2, 24, 24)
        for slot, x in ((0, small), (0, small), (0, small), (1, large), (0, small), (0, small)):
            assert relative_error(engine.infer(slot, x), truth(bundle, [0.5, 0.25, 0.25], x)) <= 1e-5


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_a_context_of_8_6_has_memory_of_its_own(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        assert engine._contexts.memory is None
