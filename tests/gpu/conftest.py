"""What the tests on a GPU share: the GPU itself, or on fakes where it is asked for, and the marks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.cuda import driver
from tests.fakes.gpu import install

BOUND = ("engines.cuda", "engines.trt", "engines.onnxruntime_gpu", "dni_deploy.latency.baselines", "benchmarks.gpu")
"""Packages whose modules name pycuda's and TensorRT's at their top."""
USES_FAKES = os.environ.get("DNI_FAKE_GPU") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="package")
def context() -> Iterator[None]:
    """The GPU's context from the first test to the last: each would make it anew otherwise, a third of a second.

    Modules that another test imported have the fakes in them for good; here they are imported once more.
    """
    if USES_FAKES or driver.why_gpu_unavailable() is not None:
        yield
        return
    with _imported_anew():
        if find_spec("pycuda") is None:
            yield
            return
        from engines.cuda.device import Device

        device = Device.open(0)
        yield
        device.close()


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
