"""What all tests share: a report header with the versions that matter, and a cache folder of their own."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.fakes.gpu import FakeGpu, install

REPORTED = ("numpy", "onnx", "onnxruntime", "torch", "onnxscript", "safetensors", "pillow")


def pytest_report_header() -> str:
    found = []
    for name in REPORTED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return f"python {platform.python_version()}, {os.cpu_count()} cores; " + ", ".join(found)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    before = os.environ.get("DNI_CACHE")
    os.environ["DNI_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["DNI_CACHE"]
    else:
        os.environ["DNI_CACHE"] = before


@pytest.fixture
def nervous() -> Iterator[None]:
    """The interpreter changes threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A fake GPU with pycuda and TensorRT; afterwards nothing may have been used wrongly or left behind.

    Parametrize it indirectly with the version of TensorRT, or with a dict of install's options.
    """
    chosen = getattr(request, "param", {})
    fake = install(monkeypatch, **({"tensorrt": chosen} if isinstance(chosen, str) else chosen))
    yield fake
    fake.check()
