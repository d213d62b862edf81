"""Sessions of ONNX Runtime's CUDA provider on a stream of the caller's.

Source: ONNX Runtime's sources and pull requests, up to 1.32; versions from 1.20 on are supported.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import onnx

from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.utils.onnxruntime_library import ort
from engines import ort_session

Result = TypeVar("Result")
CUDA_PROVIDER = "CUDAExecutionProvider"
NHWC_VARIABLE = "DNI_ONNXRUNTIME_NHWC"
"""Environment variable; 1 has convolutions run channels last, which tensor cores prefer. It was never timed, and is off."""


def make_provider_options(index: int, stream: int, *, tensor_cores: bool, replay: bool) -> dict[str, str]:
    """Makes the options of the CUDA provider.

    Args:
        index: Number of the GPU.
        stream: Handle of a CUstream.
        tensor_cores: Let convolutions and matrix products use them; float32 ones then have TF32's 10 bits of mantissa.
        replay: Run as CUDA graphs.

    Returns:
        The options, as texts.
    """
    return {
        "device_id": str(index),
        # Kernels and copies of the session go into this stream and no other; has_user_compute_stream follows from it (pull
        # request 19229). A blend that is queued there before a run is therefore seen by the run, without any waiting.
        "user_compute_stream": str(stream),
        # Since 1.20 "0" takes the tensor cores from convolutions of every type, float16 too (conv.cc, CreateCudnnFeExecutionPlan).
        # "1" is the default, and off by 3.5e-4 in a float32 convolution (pull requests 19357 and 19426).
        "use_tf32": "1" if tensor_cores else "0",
        # The default. Since 1.20 it is cuDNN's heuristics of mode B; nothing is timed. Each convolution keeps the plan of its last
        # shape alone and makes a new one where the shape differs, so two sizes of frames in turn are slow.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # The default doubles ONNX Runtime's arena at each growth, and the weights' memory, which is ours, would not fit beside it.
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if replay else "0",
        **({"prefer_nhwc": "1"} if os.environ.get(NHWC_VARIABLE) == "1" else {}),
    }


def open_session(model: onnx.ModelProto, provider: str, options: Mapping[str, str], threads: int) -> ort.InferenceSession:
    """Opens a session on one provider, without any fallback.

    Args:
        model: The graph.
        provider: Name of the execution provider.
        options: The provider's options.
        threads: Number of intra-op threads.

    Returns:
        The session.

    Raises:
        EngineError: The network cannot be opened.
        UnavailableError: The provider's libraries cannot be loaded.
    """
    if provider == CUDA_PROVIDER and hasattr(ort, "preload_dlls"):  # from 1.21 on: finds CUDA and cuDNN in NVIDIA's own wheels
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, which may not even be needed
            ort.preload_dlls()
    message = (
        f"ONNX Runtime {ort.__version__} could not load its CUDA provider: it needs the CUDA and cuDNN that it was built for, "
        "such as those of pip install 'onnxruntime-gpu[cuda,cudnn]'."
    )
    if provider not in ort.get_available_providers():
        raise UnavailableError(message)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(),
            ort_session.make_session_options(threads),
            providers=[(provider, dict(options))],
            enable_fallback=0,
        )
    except Exception as error:  # its exceptions share no base class but RuntimeError and Exception
        raise EngineError(
            f"ONNX Runtime {ort.__version__} could not open the network on the GPU: {ort_session.summarize_error(error)}"
        ) from error
    # A provider whose libraries are not found is left out with a warning, and the network would run on the CPU.
    if session.get_providers()[0] != provider:
        raise UnavailableError(message)
    return session


def call_in_thread(thread: ThreadPoolExecutor | None, function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function in a thread and returns what it returns, or raises; None as thread is the caller's own.

    The caller never leaves before the function has ended, also where Ctrl-C interrupts the wait: it holds what the function uses.
    """
    if thread is None:
        return function(*arguments)
    future = thread.submit(function, *arguments)
    try:
        return future.result()
    finally:
        wait([future])


def make_run_options(graph_id: int | None) -> ort.RunOptions:
    """Makes options of a run that returns when it is queued.

    Args:
        graph_id: Number of the CUDA graph that the run is captured in or replayed from, or None.

    Returns:
        The options.
    """
    run_options = ort.RunOptions()
    # Without it a run ends with a wait for the stream (CUDAExecutionProvider::OnRunEnd).
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    # A graph has the addresses and shapes of its first run; -1 is no graph.
    run_options.add_run_config_entry("gpu_graph_id", str(-1 if graph_id is None else graph_id))
    return run_options
