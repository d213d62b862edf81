"""Replay: frames as CUDA graphs, where a graph sees later weights and where it does not, which NVIDIA leaves open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.utils.compare_arrays import relative_error
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn, build, everywhere, library, opened, picture, truth
from tests.fakes.gpu import FakeGpu

where_we_capture = pytest.mark.parametrize("gpu", ["11.4", "10.16", "8.6"], indirect=True)

ALPHAS = ([1, 0, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5])


@everywhere
@pytest.mark.parametrize("sees", [True, False])
def test_right_whatever_a_graph_sees(sees: bool, bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.trt.graphs_see_refits = sees
    build(bundle)
    own = library().features.own_cuda_graphs
    with opened(bundle, cuda_graph=True, slots=2) as engine:
        assert ("without CUDA graphs, because a replayed frame differs" in engine.update_path) is (own and not sees)
        for shares in ALPHAS * 2:
            for slot in range(2):
                engine.refit(slot, np.array(shares, np.float64))
                for seed in range(3):  # queued, captured, replayed
                    x = picture(seed)
                    assert relative_error(engine.infer(slot, x), truth(bundle, shares, x)) <= 1e-5
                assert engine._buffer_sets[slot].runner.has_captured_graph is not own


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
@pytest.mark.parametrize("sees", [True, False])
def test_kept_over_a_refit_only_where_that_was_seen(sees: bool, bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.trt.graphs_see_refits = sees
    build(bundle)
    with opened(bundle, cuda_graph=True) as engine:
        run = engine._buffer_sets[0].runner
        assert run.keep_graph_over_refit is sees
        assert ("kept over refits" if sees else "captured again after each refit") in engine.update_path
        engine.refit(0, np.array([1.0, 0, 0]))
        engine.infer(0, picture())
        engine.infer(0, picture())
        assert run.has_captured_graph
        engine.refit(0, np.array([0, 1.0, 0]))
        assert run.has_captured_graph is sees
        engine.infer(0, picture())
        assert run.has_captured_graph is sees  # the first frame after it is queued as it is


@pytest.mark.parametrize("gpu", ["11.4", "10.16"], indirect=True)
def test_a_graph_is_updated_after_a_refit_without_a_wait(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.trt.graphs_see_refits = False
    build(bundle)
    with opened(bundle, cuda_graph=True) as engine:
        for _ in range(2):
            engine.refit(0, np.array([1.0, 0, 0]))
            for _ in range(3):
                engine.infer(0, picture())
        before, waits = gpu.graph_updates, list[str]()
        with monkeypatch.context() as patch:
            patch.setattr("tests.fakes.pycuda.stream.Stream.synchronize", lambda stream: waits.append("stream"))
            engine.refit(0, np.array([0, 1.0, 0]))
        assert not waits
        for _ in range(3):
            assert relative_error(engine.infer(0, picture()), truth(bundle, [0, 1, 0], picture())) <= 1e-5
        assert engine._buffer_sets[0].runner.has_captured_graph
        assert gpu.graph_updates == before + 1


@everywhere
def test_captured_again_for_another_shape(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, cuda_graph=True) as engine:
        engine.refit(0, np.array([0.5, 0.25, 0.25]))
        for height in (12, 12, 12, 8, 8, 8, 24, 24, 24, 12, 8, 12):
            x = picture(height, height, 20)
            assert relative_error(engine.infer(0, x), truth(bundle, [0.5, 0.25, 0.25], x)) <= 1e-5


@everywhere
def test_members_that_are_the_same_tell_nothing(gpu: FakeGpu, tmp_path: Path) -> None:
    """Then a replay after a refit looks right whatever it saw: graphs are not kept."""
    case = bn()
    case.members[1] = case.members[0]
    same = write(case, tmp_path / "same.dni", members=2)
    build(same)
    with opened(same, cuda_graph=True) as engine:
        assert engine._buffer_sets[0].runner.keep_graph_over_refit is False


@where_we_capture
def test_where_capturing_fails_there_are_none(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise EngineError("the driver said no")

    monkeypatch.setattr("engines.trt.runner.begin_capture", refuse)
    build(bundle)
    with opened(bundle, cuda_graph=True) as engine:
        assert "without CUDA graphs, because the driver said no" in engine.update_path
        engine.refit(0, np.array([1.0, 0, 0]))
        for _ in range(3):
            assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@where_we_capture
def test_an_execution_that_fails_while_captured(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle, cuda_graph=True) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        engine.infer(0, picture())
        gpu.trt.fail = {"execute": 0}
        with pytest.raises(EngineError, match="CUDA graph"):
            engine.infer(0, picture())
        for _ in range(3):  # the stream can be used again
            assert relative_error(engine.infer(0, picture()), truth(bundle, [1, 0, 0], picture())) <= 1e-5


@everywhere
def test_without_cuda_graph_nothing_is_captured(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        for _ in range(3):
            engine.infer(0, picture())
        assert not engine._buffer_sets[0].runner.has_captured_graph
