"""Features: what each TensorRT can do, as the stand-ins and the real bindings' attributes say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.errors import EnvironmentProblem
from engines.trt.features import Features, features
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("11.4", {"device_weights", "prototype", "individual", "strip", "strongly_typed", "progress", "contexts_survive"}),
        ("10.16", {"device_weights", "prototype", "individual", "strip", "strongly_typed", "progress", "contexts_survive"}),
        ("8.6", {"native_instancenorm", "narrow_tactics", "explicit_batch"}),
    ],
    indirect=["gpu"],
)
def test_each_version(gpu: FakeGpu, expected: set[str]) -> None:
    found = features()
    assert {name for name in vars(found) if vars(found)[name] is True} == expected
    assert found.version.startswith(gpu.tensorrt)
    assert found.largest_opset == (17 if gpu.tensorrt == "8.6" else None)


@pytest.mark.parametrize(("gpu", "half"), [("11.4", "fp16"), ("10.16", "fp16"), ("8.6", "fp32")], indirect=["gpu"])
def test_half_precision_is_the_graphs_or_the_builders(gpu: FakeGpu, half: str) -> None:
    assert features().graph_precision("fp16") == half
    assert features().graph_precision("fp32") == "fp32"


def without(*missing: str) -> Any:
    """A 10.1, as far as Features asks: no REFIT_INDIVIDUAL, which came with 10.5."""
    names = {"refit_cuda_engine_async", "get_weights_prototype"} - set(missing)
    return SimpleNamespace(
        __version__="10.1.0",
        Refitter=SimpleNamespace(**dict.fromkeys(names)),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=SimpleNamespace(STRIP_PLAN=19),
        INetworkDefinition=SimpleNamespace(),
        TacticSource=SimpleNamespace(JIT_CONVOLUTIONS=4),
        OnnxParserFlag=SimpleNamespace(NATIVE_INSTANCENORM=0),
    )


def test_by_attribute_and_not_by_number() -> None:
    found = Features.of(without())
    assert (found.device_weights, found.prototype, found.strip) == (True, True, True)
    assert (found.individual, found.progress, found.native_instancenorm, found.narrow_tactics) == (False,) * 4
    assert Features.of(without("get_weights_prototype")).prototype is False
    assert Features.of(without("refit_cuda_engine_async")).device_weights is False


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_numpy_2_with_8_6(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.features.NUMPY", 2)
    with pytest.raises(EnvironmentProblem, match="pip install 'numpy<2'"):
        features()


def test_no_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of TensorRT is touched: its classes crash then."""
    monkeypatch.setattr("engines.cuda.driver.library", lambda: None)
    with pytest.raises(EnvironmentProblem, match="no NVIDIA driver"):
        features()
