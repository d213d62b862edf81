"""What the tests on a GPU share: the GPU itself, or on fakes where it is asked for, and the marks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.cuda import driver
from tests.fakes.gpu import install

BOUND = ("engines.cuda", "engines.trt", "engines.onnxruntime_gpu", "dni_deploy.latency.baselines", "benchmarks.gpu")
"""Packages whose modules name those of cuda-bindings, pycuda or TensorRT at their top."""
USES_FAKES = os.environ.get("DNI_FAKE_GPU") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="package")
def context() -> Iterator[None]:
    """Imports modules once more that another test imported: those have the fakes in them for good."""
    if USES_FAKES or driver.why_gpu_unavailable() is not None:
        yield
        return
    with _imported_anew():
        yield


@contextmanager
def _imported_anew() -> Iterator[None]:
    def ours() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.startswith(BOUND)}

    def put(modules: dict[str, ModuleType]) -> None:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(modules)
        for name, module in modules.items():  # a package also keeps its modules as attributes
            above, _, last = name.rpartition(".")
            setattr(sys.modules[above], last, module)

    before = ours()
    put({})
    try:
        yield
    finally:
        put(before)


@pytest.fixture
def gpu(context: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """In place of the fake of tests/conftest.py: None where the GPU is real."""
    if not USES_FAKES:
        yield None
        return
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 1, raising=False)
    fake = install(monkeypatch)
    yield fake
    fake.check()
