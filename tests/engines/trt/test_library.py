"""The libraries: which module is imported, and what their errors are called."""

from __future__ import annotations

import sys

import pytest

from dni_deploy.errors import EngineError
from engines.trt.library import load_library
from engines.trt.messages import drop_variables
from tests.engines.trt.conftest import engine_name, everywhere, library
from tests.fakes.gpu import FakeGpu


@everywhere
def test_each_library_is_imported_under_its_own_name(gpu: FakeGpu) -> None:
    name = engine_name()
    assert library().trt is sys.modules[name.replace("-", "_")]
    assert (
        library().title == f"{'TensorRT for RTX' if gpu.tensorrt.startswith('rtx') else 'TensorRT'} {library().trt.__version__}"
    )


@everywhere
def test_what_cannot_be_loaded(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device

    device = Device.open()
    with device:
        runtime = library().trt.Runtime(library().logger)
        with pytest.raises(
            EngineError, match=f"^{library().title} could not load the plan: .*magic tag. Build it again"
        ) as refusal:
            library().deserialize_engine(runtime, b"something else")
        drop_variables(refusal.value)  # it holds the runtime
        del runtime
    device.close()
    assert refusal.value.exit_code == EngineError.exit_code


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
def test_the_other_library_is_not_there(gpu: FakeGpu) -> None:
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):
        load_library("tensorrt")
