"""Shared by all tests: a report header with the relevant versions, and a private cache folder."""

from __future__ import annotations

import importlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

import dni_deploy.utils.onnxruntime_library  # noqa: F401  # before any test imports ONNX Runtime: without its telemetry
from engines.cuda.driver import CUDA_PACKAGES
from tests.fakes.gpu import FakeGpu, install

with suppress(ModuleNotFoundError):  # some tests run where only pytest is
    from hypothesis import settings

    # No test is timed: a busy machine may take any time for an example. With CI set, the examples are the same each time.
    settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
    settings.load_profile("untimed")

REPORTED = ("numpy", "onnx", "onnxruntime", "torch", "onnxscript", "safetensors", "pillow")


def pytest_report_header() -> str:
    versions = []
    for name in REPORTED:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} absent")
    return f"python {platform.python_version()}, {os.cpu_count()} cores; " + ", ".join(versions)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps tests from the user's cache and key. The processes of one run share a cache, so that each network is exported once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNI_CACHE", str(folder))
        patch.setenv("DNI_CONFIG", str(folder.with_name("configuration")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_progress() -> Iterator[None]:
    """Keeps commands that are slow on a busy machine from printing a line of progress before what a test expects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dni_deploy.cli.output.LINE_INTERVAL_S", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def parse_translations_once() -> Iterator[None]:
    """Keeps onnxscript's functions between exports: torch.onnx parses the source of all of them again for each network.

    A version of PyTorch that keeps them elsewhere is left as it is.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        if "exporters.export_graph" in sys.modules:
            with suppress(ImportError, AttributeError):
                name = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis._name
                module = importlib.import_module(name)
                monkeypatch.setattr(module, "get_torchlib_ops", cache(module.get_torchlib_ops))
        yield


@pytest.fixture
def export_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports networks of the user's here, not in a child, which gives the same: tests/exporters/test_export_in_child.py."""
    from exporters import cache as export_cache
    from exporters.export_graph import export_graph

    def export(architecture: object, tensors: object, net: Any, signature: Any, opset: int) -> Any:
        return export_graph(net, signature, opset=opset)

    monkeypatch.setattr(export_cache, "export_in_child", export)


@pytest.fixture
def nervous() -> Iterator[None]:
    """Makes the interpreter switch threads as often as it can."""
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(previous)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests with a fake GPU once for each package: all of a module with `BOTH_BACKENDS = True`, or the tests that it names."""
    chosen = getattr(metafunc.module, "BOTH_BACKENDS", ())
    if "cuda_package" in metafunc.fixturenames and (chosen is True or metafunc.function.__name__ in chosen):
        metafunc.parametrize("cuda_package", list(CUDA_PACKAGES), indirect=True)


@pytest.fixture
def cuda_package(request: pytest.FixtureRequest) -> str | None:
    """The package through which the fake GPU is used; None for the one that DNI_CUDA names, else pycuda."""
    return getattr(request, "param", None)


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda_package: str | None) -> Iterator[FakeGpu]:
    """A fake GPU with pycuda, cuda-bindings and TensorRT; afterwards nothing may have been used wrongly or left behind.

    Parametrize it indirectly with the version of TensorRT, or with a dict of install's options.
    """
    chosen = getattr(request, "param", {})
    fake = install(monkeypatch, cuda=cuda_package, **({"tensorrt": chosen} if isinstance(chosen, str) else chosen))
    yield fake
    fake.check()
