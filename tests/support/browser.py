"""Chromium for the tests of web pages; a test module imports the fixture `browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


SOFTWARE_GPU_FLAGS = [
    *(flag for flag in FLAGS if flag != "--disable-gpu"), "--enable-unsafe-webgpu", "--enable-features=Vulkan,WebGPU",
    "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
"""WebGPU on a GPU that the processor emulates: right, and hundreds of times slower than a real one."""


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A headless Chromium, started once a module; the test is skipped where there is none.

    Parametrize it indirectly with other flags, such as SOFTWARE_GPU_FLAGS.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        flags = getattr(request, "param", FLAGS)
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        yield started
        started.close()
