"""Features: what each library can do, as the fakes and the real bindings' attributes say, and nothing of its version number."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.errors import UnavailableError
from engines.trt.features import Features
from engines.trt.library import load_library
from tests.engines.trt.conftest import everywhere, library
from tests.fakes.gpu import FakeGpu

FROM_10 = {"device_weights", "weights_prototype", "individual_refit", "strip", "strongly_typed", "progress", "user_memory"}
EXPECTED = {
    "8.6": {"native_instancenorm", "narrow_tactics", "explicit_batch"},
    "10.16": {*FROM_10, "resizes_memory", "explicit_batch"},
    "11.4": {*FROM_10, "resizes_memory"},
    "rtx-1.7": {*FROM_10, "resizes_memory", "portable_plans", "runtime_cache", "own_cuda_graphs"},
}


@everywhere
def test_each_version(gpu: FakeGpu) -> None:
    found = library().features
    assert {name for name in vars(found) if vars(found)[name] is True} == EXPECTED[gpu.tensorrt]
    assert found.version.startswith(gpu.tensorrt.removeprefix("rtx-"))
    assert found.max_opset == (17 if gpu.tensorrt == "8.6" else None)


@everywhere
def test_a_version_number_says_nothing(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX 1.7 is newer than TensorRT 10."""
    before = library().features
    monkeypatch.setattr(library().trt, "__version__", "3.1.4")
    assert library().features == replace(before, version="3.1.4")


@pytest.mark.parametrize(
    ("gpu", "half"), [("11.4", "fp16"), ("rtx-1.7", "fp16"), ("10.16", "fp16"), ("8.6", "fp32")], indirect=["gpu"]
)
def test_half_precision_is_the_graphs_or_the_builders(gpu: FakeGpu, half: str) -> None:
    assert library().features.graph_precision("fp16") == half
    assert library().features.graph_precision("fp32") == "fp32"


def without(*missing: str) -> Any:
    """A 10.1, as far as Features asks: no REFIT_INDIVIDUAL, which came with 10.5."""
    names = {"refit_cuda_engine_async", "get_weights_prototype"} - set(missing)
    return SimpleNamespace(
        __version__="10.1.0",
        Refitter=SimpleNamespace(**dict.fromkeys(names)),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=SimpleNamespace(STRIP_PLAN=19),
        INetworkDefinition=SimpleNamespace(),
        IExecutionContext=SimpleNamespace(),
        TacticSource=SimpleNamespace(JIT_CONVOLUTIONS=4),
        OnnxParserFlag=SimpleNamespace(NATIVE_INSTANCENORM=0),
    )


def test_by_attribute_and_not_by_number() -> None:
    found = Features.from_module(without())
    assert (found.device_weights, found.weights_prototype, found.strip) == (True, True, True)
    assert (found.individual_refit, found.progress, found.native_instancenorm, found.narrow_tactics) == (False,) * 4
    assert Features.from_module(without("get_weights_prototype")).weights_prototype is False
    assert Features.from_module(without("refit_cuda_engine_async")).device_weights is False


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_numpy_2_with_8_6(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 2)
    with pytest.raises(UnavailableError, match='pip install "numpy<2"'):
        load_library()


def test_no_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of TensorRT is touched: its classes crash then."""
    monkeypatch.setattr("engines.cuda.driver.load_driver_library", lambda: None)
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        load_library()
