"""Sites in a real browser, by WebGPU on a GPU that the processor emulates, where such a browser starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch", reason="the networks are exported by PyTorch (extra `export`)")

import dni_deploy as dni
from tests.dni_deploy.website.test_site_in_browser import MAX_ERROR, check_picture, find_sample, make_site, measure_errors
from tests.dni_deploy.website.test_site_in_browser import address as address
from tests.dni_deploy.website.test_site_in_browser import folder as folder
from tests.engines.conftest import Case, write
from tests.engines.conftest import pico_case as pico_case
from tests.support.browser import SOFTWARE_GPU_FLAGS
from tests.support.browser import browser as browser
from tests.support.site_in_browser import SiteTab, find_runtime

__all__ = ["make_site"]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("browser", [SOFTWARE_GPU_FLAGS], indirect=True, ids=["swiftshader"])]

GPU_TIMEOUT_S = 400.0
"""An emulated GPU compiles every shader for the processor first; on two busy cores that took a minute and more."""

HAS_WEBGPU = "navigator.gpu ? navigator.gpu.requestAdapter().then(adapter => Boolean(adapter)) : false"


def require_webgpu(tab: SiteTab) -> None:
    if not tab.evaluate(HAS_WEBGPU):
        pytest.skip("this Chromium emulates no GPU")


@pytest.mark.parametrize("name", ["compact", "dncnn_bn", "demo"])
def test_outputs_equal_a_session(name: str, browser: Any, address: str, make_site: Callable[..., Any]) -> None:
    bundle = make_site(name).bundle
    tab = SiteTab(browser, f"{address}a%20path/{name}/", "?engine=wasm")
    require_webgpu(tab)
    assert measure_errors(tab, bundle, "webgpu") <= MAX_ERROR
    tab.close()


def test_the_page_runs_by_webgpu(browser: Any, address: str, folder: Path, pico_case: Callable[[str], Case]) -> None:
    bundle = write(pico_case("compact_x2"), folder / "small.dni")
    (folder / "small").mkdir()
    Image.linear_gradient("L").resize((24, 20)).convert("RGB").save(folder / "small.png")
    dni.web(bundle, folder / "small" / "gpu", runtime=find_runtime(), sample=folder / "small.png")
    tab = SiteTab(browser, f"{address}small/gpu/", "?engine=webgpu#alpha=0.25")
    require_webgpu(tab)
    tab.wait_for_picture(seconds=GPU_TIMEOUT_S)
    assert tab.get_text("m-engine") == "WebGPU"
    check_picture(tab, bundle, folder / "small.png", 0.25)
    tab.page.get_by_label("alpha, the share of a").fill("0.75")
    tab.until("dni.frames > 1 && document.getElementById('picture').dataset.shares === '0.750 0.250'", GPU_TIMEOUT_S)
    check_picture(tab, bundle, folder / "small.png", 0.75)
    tab.close()
    tab = SiteTab(browser, f"{address}small/gpu/")  # an emulated GPU is slower than WebAssembly, and is not chosen
    tab.wait_for_picture()
    assert tab.get_text("m-engine") == "WebAssembly, 1 thread"
    tab.close()


def test_a_gpu_that_computes_something_else_is_left_alone(
    browser: Any, address: str, folder: Path, pico_case: Callable[[str], Case]
) -> None:
    """By WebGPU, ONNX Runtime Web 1.30.0 computes a 3 x 3 convolution from 6 to 8 channels wrong; the page's check finds it."""
    bundle = write(pico_case("transformer_net"), folder / "wrong.dni")
    Image.linear_gradient("L").resize((24, 20)).convert("RGB").save(folder / "small.png")
    dni.web(bundle, folder / "wrong", runtime=find_runtime(), sample=folder / "small.png")
    tab = SiteTab(browser, f"{address}wrong/", "?engine=webgpu")
    require_webgpu(tab)
    tab.wait_for_picture(seconds=GPU_TIMEOUT_S)
    assert tab.get_text("note").endswith("The network computes something else here than when it was published.")
    assert tab.get_text("m-engine") == "WebAssembly, 1 thread"
    check_picture(tab, bundle, folder / "small.png", 0.5)
    tab.close()


def test_where_webgpu_fails_webassembly_takes_over(browser: Any, address: str, make_site: Callable[..., Any]) -> None:
    site = make_site("compact")
    (site.folder / "runtime/ort.jspi.js").write_text("throw new Error('The GPU is on strike.');")
    tab = SiteTab(browser, f"{address}a%20path/compact/", "?engine=webgpu")
    require_webgpu(tab)
    tab.wait_for_picture()
    assert tab.get_text("note").startswith("WebGPU cannot be used here, and the network runs by WebAssembly, which is slower.")
    check_picture(tab, site.bundle, find_sample(site), 0.5)
    tab.close()
