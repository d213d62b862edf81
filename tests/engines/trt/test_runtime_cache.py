"""Kernels that TensorRT for RTX compiled: kept, read back, and passed over where they are not to be trusted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.utils.derived_file import write_derived_file
from tests.engines.trt.conftest import build, opened, picture
from tests.fakes.gpu import FakeGpu

pytestmark = pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt-rtx"


def render(bundle: Bundle, *sides: int) -> None:
    with opened(bundle) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        for side in sides:
            engine.infer(0, picture(0, side, side))


def stored(cache: Path) -> Path:
    (path,) = cache.glob("runtime-*.cache")
    return path


def test_kernels_are_compiled_once(bundle: Bundle, gpu: FakeGpu, cache: Path) -> None:
    build(bundle)
    render(bundle, 8, 24)
    assert len(gpu.trt.compiled) == 2  # the verification has the shape of one of them
    assert stored(cache).stat().st_mode & 0o777 == 0o600
    gpu.trt.compiled.clear()
    render(bundle, 8, 24)
    assert gpu.trt.compiled == set()
    before = stored(cache).stat().st_mtime_ns
    render(bundle, 8)
    assert stored(cache).stat().st_mtime_ns == before  # nothing was added
    render(bundle, 12)
    assert len(gpu.trt.compiled) == 1
    gpu.trt.compiled.clear()
    render(bundle, 8, 12, 24)
    assert gpu.trt.compiled == set()


@pytest.mark.parametrize("damage", ["others may write", "link", "pipe", "of another driver", "empty"])
def test_a_cache_that_is_not_used(
    damage: str, bundle: Bundle, gpu: FakeGpu, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is passed over with a line in the log; the kernels are compiled again."""
    import os

    caplog.set_level(logging.INFO, "engines.trt")
    build(bundle)
    render(bundle, 8)
    path = stored(cache)
    if damage == "others may write":
        path.chmod(0o666)
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif damage == "of another driver":
        write_derived_file(path, b"something else", force=True)
    else:
        path.write_bytes(b"")
    gpu.trt.compiled.clear()
    caplog.clear()
    render(bundle, 8)
    assert gpu.trt.compiled
    assert {"of another driver": "is for another GPU"}.get(damage, str(path)) in caplog.text


def test_without_a_cache_folder(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.runtime_cache.cache_folder", lambda: None)
    build(bundle)
    render(bundle, 8)
