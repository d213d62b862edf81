"""Every baseline in TensorRT computes the blend that it is timed for, on a plan that `bench` builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError, UsageError
from dni_deploy.utils.compare_arrays import relative_error
from engines.interface import BuildOptions, EngineOptions
from engines.trt.plan import PlanHeader, find_plan, plan_path
from tests.engines.conftest import write
from tests.engines.trt.conftest import TOLERANCE, bn, engine_name, everywhere, identity_of, numpy_1, picture, profile, truth  # noqa: F401
from tests.engines.trt.conftest import build as build_refit
from tests.fakes.gpu import FakeGpu

NAMES = ("tensorrt-inputs", "tensorrt-graph", "tensorrt-constant")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=3)


def build(bundle: Bundle, name: str, precision: str = "fp32") -> Any:
    from dni_deploy.latency.baselines.tensorrt import TENSORRT_BASELINES
    from engines.trt.build import build_plan

    return build_plan(bundle, BuildOptions(precision=precision, profile=profile(bundle)), None, TENSORRT_BASELINES[name])


def open_baseline(name: str, bundle: Bundle, **options: Any) -> Any:
    from dni_deploy.latency.baselines import tensorrt

    return tensorrt.open_baseline(name, bundle, EngineOptions(**options))


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_computes_the_blend(name: str, precision: str, bundle: Bundle, gpu: FakeGpu) -> None:
    """Each slot has its own blend; the constant baseline is the first member, whatever alpha is."""
    name = name.replace("tensorrt", engine_name())
    assert build(bundle, name, precision).max_relative_error <= TOLERANCE[precision]
    engine = open_baseline(name, bundle, slots=2)
    assert engine.name == name
    for step in range(3):  # the third run replays a captured graph, where there is one
        for slot, coefficients in enumerate(([0.5, 0.25, 0.25], [0, 0.7, 0.3])):
            engine.refit(slot, np.array(coefficients))
            x = picture(step)
            expected = truth(bundle, [1, 0, 0] if name.endswith("-constant") else coefficients, x)
            assert relative_error(engine.infer(slot, x), expected) <= TOLERANCE[precision]
    engine.close()


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_baseline_refuses_different_alphas_per_weight(name: str, bundle: Bundle, gpu: FakeGpu) -> None:
    """Different rows and coefficients that do not fit are refused, and the slot is unchanged."""
    build(bundle, name)
    engine = open_baseline(name, bundle)
    engine.refit(0, np.array([0.2, 0.3, 0.5]))
    before = engine.infer(0, picture())
    rows = np.tile([0.2, 0.3, 0.5], (len(bundle.weight_names), 1))
    rows[0] = [1, 0, 0]
    with pytest.raises(UsageError, match=f"{name} has one alpha for all weights"):
        engine.refit(0, rows)
    with pytest.raises(EngineError, match="for 3 members"):
        engine.refit(0, np.array([0.5, 0.5]))
    assert np.array_equal(engine.infer(0, picture()), before)
    engine.close()


def test_a_missing_plan_names_the_build_command(bundle: Bundle, gpu: FakeGpu) -> None:
    with pytest.raises(UnavailableError, match=r"tensorrt-inputs cannot run here: no plan is built .*bench --build-baselines"):
        open_baseline("tensorrt-inputs", bundle)


def test_a_missing_baseline_plan_is_built_with_the_bundle_options(bundle: Bundle, gpu: FakeGpu) -> None:
    from dni_deploy.latency.baselines import tensorrt

    build_refit(bundle, precision="fp16")
    tensorrt.build_missing_baseline("tensorrt-inputs", bundle)
    path = find_plan(bundle, tensorrt.InputsNetwork, "fp16")
    assert path == plan_path(bundle, PlanHeader(identity_of(bundle, tensorrt.InputsNetwork, "fp16"), "", ()))
    written = path.stat().st_mtime_ns
    tensorrt.build_missing_baseline("tensorrt-inputs", bundle)  # not again
    assert path.stat().st_mtime_ns == written


def test_a_plan_that_holds_weights_belongs_to_its_members(bundle: Bundle, gpu: FakeGpu) -> None:
    """A plan whose weights are inputs serves every family of the graph."""
    from dni_deploy.latency.baselines import tensorrt

    assert identity_of(bundle, tensorrt.InputsNetwork).members == identity_of(bundle).members == ()
    for network_class in (tensorrt.GraphNetwork, tensorrt.ConstantNetwork):
        assert len(identity_of(bundle, network_class).members) == 3
    kinds = (tensorrt.InputsNetwork, tensorrt.GraphNetwork, tensorrt.ConstantNetwork)
    assert len({identity_of(bundle, kind).kind for kind in kinds}) == 3
