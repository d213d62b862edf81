"""The CUDA of installed packages, by the metadata that the real wheels have, and drivers that serve it or do not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from engines import registry
from engines.cuda import driver, wheels
from engines.cuda.wheels import find_cuda_version, why_driver_too_old

ONNXRUNTIME_CUDA13 = [  # 1.31.1
    "numpy>=1.21.6", 'nvidia-cuda-runtime~=13.0; extra == "cuda"', 'nvidia-cudnn-cu13~=9.0; extra == "cudnn"',
]  # fmt: skip
ONNXRUNTIME_CUDA12 = ["numpy>=1.21.6", 'nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"']  # 1.22.0


def install(monkeypatch: pytest.MonkeyPatch, cuda: tuple[int, int] = (13, 0), **requirements: list[str] | None) -> None:
    """Has these distributions installed, and a driver for this CUDA."""
    installed = {name.replace("_", "-"): each for name, each in requirements.items()}

    def requires(name: str) -> list[str] | None:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(wheels, "requires", requires)
    monkeypatch.setattr(driver, "query_driver", lambda: driver.Driver(cuda, (("NVIDIA A100", (8, 0)),)))


def test_the_metadata_tell_the_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime_gpu=ONNXRUNTIME_CUDA13, tensorrt=["tensorrt_cu13==11.4.0.106"])
    assert (find_cuda_version("onnxruntime-gpu"), find_cuda_version("tensorrt")) == (13, 13)
    install(monkeypatch, onnxruntime_gpu=ONNXRUNTIME_CUDA12, tensorrt_cu12=["tensorrt_cu12_libs==11.4.0.106"])
    assert (find_cuda_version("onnxruntime-gpu"), find_cuda_version("tensorrt")) == (12, 12)
    install(monkeypatch, onnxruntime_gpu=None)
    assert (find_cuda_version("onnxruntime-gpu"), find_cuda_version("tensorrt")) == (None, None)


def test_a_driver_that_is_too_old_is_named_with_what_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_explain_missing_packages", lambda names, extra: None)
    monkeypatch.setattr(registry, "CUDA_PROVIDER_LIBRARIES", (".",))
    monkeypatch.setattr(driver, "why_no_cuda_package", lambda: None)
    packages = {"onnxruntime_gpu": ONNXRUNTIME_CUDA13, "tensorrt": ["tensorrt_cu13==11.4.0.106"]}
    install(monkeypatch, (12, 8), **packages)
    for reason in (registry.why_onnxruntime_gpu_unavailable(None), registry.why_tensorrt_missing()):
        assert reason is not None
        assert "is for CUDA 13, which needs an NVIDIA driver from 580 on, and this driver serves CUDA 12.8" in reason
        assert 'pip install "onnxruntime-gpu[cuda,cudnn]<1.27" tensorrt-cu12' in reason
    install(monkeypatch, (11, 4), onnxruntime_gpu=ONNXRUNTIME_CUDA12)
    reason = why_driver_too_old("onnxruntime-gpu")
    assert reason is not None
    assert reason.endswith("driver from 525 on, and this driver serves CUDA 11.4: update the driver")


def test_a_driver_that_serves_the_cuda_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda in ((12, 0), (13, 0)):  # any driver for CUDA 12 runs what any CUDA 12 built
        install(monkeypatch, cuda, onnxruntime_gpu=ONNXRUNTIME_CUDA12)
        assert why_driver_too_old("onnxruntime-gpu") is None
    install(monkeypatch, (12, 0))
    assert why_driver_too_old("onnxruntime-gpu") is None
    monkeypatch.setattr(driver, "query_driver", lambda: "no NVIDIA driver")
    assert why_driver_too_old("onnxruntime-gpu") is None
