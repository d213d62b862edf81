"""The backend for cuda-bindings: every call has the real package's signature, and errors and arguments are pycuda's."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines.cuda
from tests.fakes import cuda_bindings as fake
from tests.fakes.gpu import FakeGpu

SOURCE = Path(engines.cuda.__file__).with_name("cuda_bindings.py")


@pytest.fixture
def real() -> Any:
    """The installed package."""
    if "cuda.bindings.driver" in sys.modules:
        return sys.modules["cuda.bindings.driver"]
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ModuleNotFoundError:
        pytest.skip("cuda-bindings is not installed")


@pytest.fixture
def cuda_package() -> str:
    return "cuda-bindings"


def names() -> set[str]:
    """Every name that the source takes from the package, such as "cuInit" and "CUresult.CUDA_ERROR_OUT_OF_MEMORY"."""
    found = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cu":
            found.add(node.attr)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("CU"):
            owner = (node.attr.startswith("CU_DEVICE") and "CUdevice_attribute") or ast.unparse(node.value).removeprefix("cu.")
            found.add(f"{owner}.{node.attr}")
    return found


def calls() -> Iterator[tuple[str, int]]:
    """Every function that is called, with the number of its arguments."""
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_call", "_destroy"):
            function, *arguments = node.args
            if isinstance(function, ast.Attribute):
                # The grid is a tuple of two, the block one of three.
                yield function.attr, sum({"*grid": 2, "*block": 3}.get(ast.unparse(argument), 1) for argument in arguments)


def resolve(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def test_the_real_package_has_every_name_and_number(real: Any) -> None:
    assert len(names()) > 30
    for name in names():
        assert hasattr(resolve(real, name.rpartition(".")[0]) if "." in name else real, name.rpartition(".")[2]), name
        if "." in name:
            assert int(resolve(real, name)) == int(resolve(fake, name)), name
    assert int(real.CUevent_flags.CU_EVENT_BLOCKING_SYNC) == 1
    assert int(real.CUevent_flags.CU_EVENT_DISABLE_TIMING) == 2


def test_the_real_functions_take_what_is_passed(real: Any) -> None:
    found = list(calls())
    assert {name for name, _ in found} == {name for name in names() if name.startswith("cu")}
    for name, count in found:
        assert len(inspect.signature(getattr(real, name)).parameters) == count, name


def test_the_fake_has_the_parameters_of_the_real_package(real: Any) -> None:
    for name in (name for name in names() if name.startswith("cu")):
        expected, own = (list(inspect.signature(getattr(module, name)).parameters) for module in (real, fake))
        assert own == expected, name


def test_the_real_handles_are_numbers(real: Any) -> None:
    assert int(real.CUstream(5)) == 5
    assert int(real.CUdeviceptr(7)) == 7
    assert not real.CUresult.CUDA_SUCCESS
    assert real.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    assert real.CUresult(2).name == "CUDA_ERROR_OUT_OF_MEMORY"


@pytest.fixture
def cuda(gpu: FakeGpu) -> Iterator[Any]:
    from engines.cuda import cuda_bindings
    from engines.cuda.device import Device

    device = Device.open()
    with device:
        yield cuda_bindings
    device.close()


def test_errors_name_the_call_and_the_code(cuda: Any, gpu: FakeGpu) -> None:
    with pytest.raises(cuda.Error, match=r"^cuMemAlloc failed: CUDA_ERROR_INVALID_VALUE$"):
        cuda.mem_alloc(0)
    with pytest.raises(cuda.MemoryError, match=r"^cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY$"):
        cuda.mem_alloc(gpu.memory.total + 1)
    with pytest.raises(cuda.Error, match="CUDA_ERROR_INVALID_IMAGE"):
        cuda.module_from_buffer(b"nothing that is code")


def test_no_context_is_an_error(gpu: FakeGpu) -> None:
    from engines.cuda import cuda_bindings

    cuda_bindings.init()
    with pytest.raises(cuda_bindings.Error, match="cuStreamCreate failed: CUDA_ERROR_INVALID_CONTEXT"):
        cuda_bindings.Stream(1)


def test_copies_take_arrays_and_addresses(cuda: Any) -> None:
    stream, memory, other = cuda.Stream(1), cuda.mem_alloc(8), cuda.mem_alloc(8)
    cuda.memcpy_htod_async(int(memory), np.arange(4, dtype=np.float16), stream)
    cuda.memset_d8_async(int(memory) + 2, 0, 2, stream)
    cuda.memcpy_dtod_async(int(other), int(memory), 8, stream)
    back = np.empty(4, np.float16)
    cuda.memcpy_dtoh_async(back, int(other), stream)
    stream.synchronize()
    assert back.tolist() == [0, 0, 2, 3]
    with pytest.raises(ValueError, match="contiguous"):
        cuda.memcpy_htod_async(int(memory), np.arange(8, dtype=np.uint8)[::2], stream)
    memory.free()
    other.free()


def test_page_locked_memory_is_freed_once(cuda: Any, gpu: FakeGpu) -> None:
    array = cuda.pagelocked_empty(12, np.uint8)
    array[:] = 3
    assert [one.nbytes for one in gpu.memory.living("page-locked")] == [12]
    array.base.free()
    assert gpu.memory.living() == []
    with pytest.raises(cuda.Error):
        array.base.free()
    with pytest.raises(TypeError, match="uint8, not float32"):
        cuda.pagelocked_empty(12, np.float32)


def test_a_launch_takes_the_struct_that_was_prepared(cuda: Any, gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.kernels import FOLD_ARGUMENTS, Kernels

    passed: list[tuple[Any, ...]] = []
    gpu.kernel = lambda *arguments: passed.append(arguments)
    device = Device.open()
    function = Kernels(device).load_function("fold", FOLD_ARGUMENTS)
    argument, stream = np.void(bytes(range(184)) * 3), device.create_stream()
    with pytest.raises(TypeError, match="552 bytes was prepared, 8 bytes given"):
        function.prepared_async_call((7, 1), (256, 1, 1), stream, np.void(b"12345678"))
    function.prepared_async_call((7, 1), (256, 1, 1), stream, argument)
    stream.synchronize()
    assert passed == [("fold", (7, 1, 1), (256, 1, 1), argument.tobytes())]
    device.close()
    function.prepared_async_call((7, 1), (256, 1, 1), stream, argument)  # the function keeps its module
    stream.synchronize()
    assert len(passed) == 2
    gpu.launches.clear()


def test_streams_are_destroyed_with_the_object(cuda: Any, gpu: FakeGpu) -> None:
    stream = cuda.Stream(1)
    handle = stream.handle
    assert handle in gpu.scheduler.queues
    del stream
    assert handle not in gpu.scheduler.queues


def test_the_real_package_on_a_stub_of_the_driver(real: Any, tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for the stub of libcuda")
    source, library = Path(fake.__file__).with_name("libcuda.c"), tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-Wl,-soname,libcuda.so.1", "-ldl"], check=True)
    command = [sys.executable, "-m", "tests.engines.cuda.on_libcuda_stub"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=SOURCE.parents[2], env=environment)
    assert done.returncode == 0, done.stderr
