"""The relevant TensorRT error is quoted in our error message, on one line."""

from __future__ import annotations

import pytest

from tests.fakes.gpu import FakeGpu


def test_first_error_since_the_start_is_quoted(gpu: FakeGpu) -> None:
    import tensorrt as trt

    from engines.trt.library import load_library

    library = load_library()
    log = library.logger
    log.log(trt.Logger.ERROR, "of long ago")
    library.clear_errors()
    log.log(trt.Logger.WARNING, "a warning")
    log.log(trt.Logger.INTERNAL_ERROR, "\n[foo.cpp::bar::12] Error Code 2: \x1b[31mno room.\nmore of it")
    log.log(trt.Logger.ERROR, "and so its caller failed")
    message = str(library.make_error("do it", "Try again."))
    assert "could not do it: [foo.cpp::bar::12] Error Code 2: \\x1b[31mno room. Try again." in message
    assert str(library.make_error("do it")) == f"TensorRT {trt.__version__} could not do it."
    assert load_library().logger is log


@pytest.mark.parametrize("text", ["", "\n\n", "  "])
def test_error_without_a_tensorrt_message(text: str, gpu: FakeGpu) -> None:
    from engines.trt.messages import summarize_message

    assert summarize_message(text) == "no reason was given"
