"""Obstacles: why an engine cannot run on this machine, asked without importing it.

Each answers with one sentence, without a full stop, that ends in what to do; None where nothing stands in the way. The driver
is asked before any GPU package is touched: TensorRT's own classes crash without one. No package is imported to find out, because
a broken one can take the process with it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engines.cuda import driver

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle


class AvailabilityCheck(Protocol):
    """Asked with the bundle and the number of the GPU that it shall run on, or with None for the machine alone."""

    def __call__(self, bundle: Bundle | None, device: int = 0) -> str | None: ...


CUDA_PROVIDER_LIBRARIES = ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll")
"""What onnxruntime-gpu brings and onnxruntime does not, in the package's folder `capi`."""


def why_onnxruntime_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
    return _explain_missing_packages(("onnxruntime",), "cpu")


def why_onnxruntime_gpu_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
    obstacle = driver.why_gpu_unavailable() or _explain_missing_packages(("onnxruntime", "pycuda"), "gpu")
    if obstacle:
        return obstacle
    spec = find_spec("onnxruntime")
    folders = [Path(folder) / "capi" for folder in (spec.submodule_search_locations if spec else None) or ()]
    if not any((folder / name).exists() for folder in folders for name in CUDA_PROVIDER_LIBRARIES):
        return (
            "this onnxruntime has no CUDA provider: pip uninstall -y onnxruntime, then pip install --force-reinstall "
            "onnxruntime-gpu"
        )
    return None


def make_tensorrt_check(kind: str) -> AvailabilityCheck:
    """kind: of the plan that the engine opens, as in engines/trt/plan.py."""

    def why_tensorrt_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
        found = driver.why_gpu_unavailable() or _explain_missing_packages(("tensorrt", "pycuda", "polygraphy"), "tensorrt")
        if found or bundle is None:
            return found
        from engines.trt.plan import search_plans

        plan, rejected = search_plans(bundle, kind, device=device)
        if plan is None:
            engine = "tensorrt" if kind == "refit" else f"tensorrt-{kind}"
            told = f" ({rejected})" if rejected else ""
            return f"no plan is built for this GPU and this TensorRT{told}: dni-deploy build --engine {engine}"
        return None

    return why_tensorrt_unavailable


def _explain_missing_packages(names: tuple[str, ...], extra: str) -> str | None:
    missing = [name for name in names if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'dni-deploy[{extra}]'" if missing else None
