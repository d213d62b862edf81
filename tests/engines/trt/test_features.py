"""Features: what each TensorRT can do, as the fakes and the real bindings' attributes say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.errors import UnavailableError
from engines.trt.features import Features, detect_features
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (
            "11.4",
            {
                "device_weights",
                "weights_prototype",
                "individual_refit",
                "strip",
                "strongly_typed",
                "progress",
            },
        ),
        (
            "10.16",
            {
                "device_weights",
                "weights_prototype",
                "individual_refit",
                "strip",
                "strongly_typed",
                "progress",
            },
        ),
        ("8.6", {"native_instancenorm", "narrow_tactics", "explicit_batch"}),
    ],
    indirect=["gpu"],
)
def test_each_version(gpu: FakeGpu, expected: set[str]) -> None:
    found = detect_features()
    assert {name for name in vars(found) if vars(found)[name] is True} == expected
    assert found.version.startswith(gpu.tensorrt)
    assert found.max_opset == (17 if gpu.tensorrt == "8.6" else None)


@pytest.mark.parametrize(("gpu", "half"), [("11.4", "fp16"), ("10.16", "fp16"), ("8.6", "fp32")], indirect=["gpu"])
def test_half_precision_is_the_graphs_or_the_builders(gpu: FakeGpu, half: str) -> None:
    assert detect_features().graph_precision("fp16") == half
    assert detect_features().graph_precision("fp32") == "fp32"


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
    found = Features.from_module(without())
    assert (found.device_weights, found.weights_prototype, found.strip) == (True, True, True)
    assert (found.individual_refit, found.progress, found.native_instancenorm, found.narrow_tactics) == (False,) * 4
    assert Features.from_module(without("get_weights_prototype")).weights_prototype is False
    assert Features.from_module(without("refit_cuda_engine_async")).device_weights is False


@pytest.mark.parametrize("gpu", ["8.6"], indirect=True)
def test_numpy_2_with_8_6(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 2)
    with pytest.raises(UnavailableError, match="pip install 'numpy<2'"):
        detect_features()


def test_no_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of TensorRT is touched: its classes crash then."""
    monkeypatch.setattr("engines.cuda.driver.load_driver_library", lambda: None)
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        detect_features()
