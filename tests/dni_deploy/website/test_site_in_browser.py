"""Sites in a real browser, by WebAssembly: pictures equal a Session's, and the page does what it says.

ONNX Runtime Web is found by the environment variable DNI_ONNXRUNTIME_WEB: tests/support/site_in_browser.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the networks are exported by PyTorch (extra `export`)")

import dni_deploy as dni
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_slider
from dni_deploy.imaging.image_file import read_image
from dni_deploy.session.tiles import render_tiled
from tests.dni_deploy.website.test_network import with_control
from tests.engines.conftest import Case, write
from tests.engines.conftest import pico_case as pico_case
from tests.engines.onnxruntime_cpu.test_calibration import calibrated
from tests.support.browser import browser as browser
from tests.support.site_in_browser import SiteTab, find_runtime, serve_folder

pytestmark = pytest.mark.slow

MAX_ERROR = 1e-4
"""Between ONNX Runtime Web and ONNX Runtime on the CPU, of the output's largest value: sums in another order."""

ALPHAS = (0.0, 0.35, 1.0)
INFER = """async ({ engine, alphas, x, height, width }) => {
  const { fetchNetwork, Network } = await import(new URL("network.js", location.href).href);
  const base = new URL(".", location.href).href, site = await (await fetch("site.json")).json();
  const network = await Network.open(base, site, await fetchNetwork(base, site, () => {}), engine);
  const outputs = [];
  for (const alpha of alphas) {
    network.setWeights([alpha, 1 - alpha], {});
    const { buffer, byteOffset, byteLength } = await network.infer(Float32Array.from(x), height, width);
    let text = "";
    for (const byte of new Uint8Array(buffer, byteOffset, byteLength)) text += String.fromCharCode(byte);
    outputs.push(btoa(text)); // playwright takes many seconds for so many numbers
  }
  return outputs;
}"""


class Site(NamedTuple):
    bundle: Bundle
    folder: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is served: a site is in a folder of its own, so that every test is one of a subpath, too."""
    find_runtime()
    return tmp_path_factory.mktemp("sites")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve_folder(folder) as root:
        yield root


@pytest.fixture(scope="module")
def make_site(folder: Path, pico_case: Callable[[str], Case]) -> Callable[..., Site]:
    """Makes the site of a family at its first use."""
    made: dict[str, Site] = {}

    def give(name: str, **options: Any) -> Site:
        if name not in made:
            bundle = make_bundle(name, folder, pico_case)
            dni.web(bundle, folder / "a path" / name, runtime=find_runtime(), title=f"{name} <or> not", **options)
            made[name] = Site(bundle, folder / "a path" / name)
        return made[name]

    (folder / "a path").mkdir()
    return give


def make_bundle(name: str, folder: Path, pico_case: Callable[[str], Case]) -> Bundle:
    if name == "demo":
        data = Path(dni.__file__).parent / "data/denoise"
        return dni.export({"n20": data / "n20.safetensors", "n60": data / "n60.safetensors"}, folder / "demo.dni")
    if name == "control":
        return write(with_control(), folder / "control.dni")
    bundle = write(
        pico_case(name.removeprefix("calibrated_").removeprefix("three_")), folder / f"{name}.dni", 3 if "three" in name else 2
    )
    return calibrated(bundle) if name.startswith("calibrated") else bundle


@pytest.mark.parametrize("name", ["compact", "dncnn_bn", "demo", "dncnn_bn_kair", "transformer_net", "calibrated_dncnn_bn"])
def test_outputs_equal_a_session(name: str, browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    bundle = make_site(name).bundle
    tab = SiteTab(browser, f"{address}a%20path/{name}/")
    assert measure_errors(tab, bundle, "wasm") <= MAX_ERROR
    tab.wait_for_picture()
    assert (tab.get_text("problem"), tab.get_text("note")) == ("", "")
    tab.close()


def measure_errors(tab: SiteTab, bundle: Bundle, engine: str) -> float:
    """Returns the largest error of the outputs at ALPHAS against a Session, relative to the largest output."""
    signature = bundle.signature
    side = signature.round_up_side(32)
    shape = (signature.frame_batch, signature.input_channels, side, side)
    x = np.random.default_rng(0).uniform(signature.low, signature.high, shape).astype(np.float32)
    request = {"engine": engine, "alphas": ALPHAS, "x": x.reshape(-1).tolist(), "height": side, "width": side}
    outputs = tab.evaluate(INFER, request)
    errors = []
    with dni.open_session(bundle, threads=1) as session:
        for alpha, output in zip(ALPHAS, outputs, strict=True):
            expected = session.infer(x, alpha=alpha)
            values = np.frombuffer(base64.b64decode(output), np.float32).reshape(expected.shape)
            errors.append(float(np.abs(values - expected).max() / np.abs(expected).max()))
    print(bundle.path.name, engine, errors)
    return max(errors)


def check_picture(tab: SiteTab, bundle: Bundle, picture: Path, alpha: Any, **controls: float) -> None:
    """Compares the picture on the page with that of `run`, which rounds to the same levels but for ties."""
    frame = read_image(picture).rgb
    with dni.open_session(bundle, alpha=alpha, threads=1, controls=controls) as session:
        expected = render_tiled(session, frame).output
    pixels = tab.read_pixels()
    assert pixels.shape == expected.shape
    differences = np.abs(pixels.astype(int) - expected.astype(int))
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3


def find_sample(site: Site) -> Path:
    return site.folder / json.loads((site.folder / "site.json").read_bytes())["sample"]["file"]


def test_the_slider_moves_the_picture_and_the_address(browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    site = make_site("compact")
    tab = SiteTab(browser, f"{address}a%20path/compact/")
    tab.wait_for_picture()
    assert tab.page.title() == "compact <or> not"
    check_picture(tab, site.bundle, find_sample(site), 0.5)
    slider = tab.page.get_by_label("alpha, the share of a")
    slider.focus()
    tab.page.keyboard.press("Home")
    tab.until("document.getElementById('picture').dataset.shares === '0.000 1.000'")
    tab.wait_for_picture("1")
    check_picture(tab, site.bundle, find_sample(site), 0.0)
    slider.fill("0.35")
    tab.until("location.hash === '#alpha=a=0.35,b=0.65'")
    tab.wait_for_picture("2")
    assert tab.get_text("coefficients") == "a 0.35 · b 0.65"
    assert slider.get_attribute("aria-valuetext") == "a 0.35, b 0.65"
    tab.until("document.getElementById('said').textContent === 'a 0.35, b 0.65'")
    tab.evaluate("location.hash = '#alpha=0.8'")  # somebody edits the address
    tab.until("document.getElementById('picture').dataset.shares === '0.800 0.200'")
    tab.until("document.getElementById('alpha').value === '0.8'")
    assert tab.evaluate("Math.min(...dni.changes)") < 20  # of 1 000 weights, on a busy machine
    tab.close()


def test_a_link_shares_a_look(browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    site = make_site("control")
    tab = SiteTab(browser, f"{address}a%20path/control/", "#alpha=a=0.25,b=0.75&control.gain=1.5")
    tab.wait_for_picture()
    check_picture(tab, site.bundle, find_sample(site), 0.25, gain=1.5)
    assert tab.page.get_by_label("gain").input_value() == "1.5"
    tab.page.get_by_label("gain").fill("0.5")
    tab.until("location.hash === '#alpha=a=0.25,b=0.75&control.gain=0.5'")
    tab.wait_for_picture("1")
    check_picture(tab, site.bundle, find_sample(site), 0.25, gain=0.5)
    tab.close()
    tab = SiteTab(browser, f"{address}a%20path/control/", "#alpha=c=1&control.gain=7")
    tab.wait_for_picture()
    assert tab.get_text("note") == "The address has an alpha that does not fit a, b; it is left out."
    check_picture(tab, site.bundle, find_sample(site), 0.5, gain=0.0)
    tab.close()


def test_a_large_picture_is_rendered_in_tiles(
    browser: Any, address: str, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site("dncnn_bn")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 517, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    tab = SiteTab(browser, f"{address}a%20path/dncnn_bn/")
    tab.wait_for_picture()
    tab.page.locator("#file").set_input_files(tmp_path / "large.png")
    tab.until("document.getElementById('stage-text').textContent.startsWith('Part ')")
    tab.wait_for_picture("1")
    assert tab.get_text("source") == "large.png, 517 × 300"
    check_picture(tab, site.bundle, tmp_path / "large.png", 0.5)
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "picture a-0.50 b-0.50.png"
    assert np.array_equal(np.asarray(Image.open(download.value.path()).convert("RGB")), tab.read_pixels())
    tab.page.get_by_role("button", name="Back to the sample").click()
    tab.wait_for_picture("2")
    check_picture(tab, site.bundle, find_sample(site), 0.5)
    tab.page.locator("#file").set_input_files(site.folder / "site.json")
    tab.until("document.getElementById('note').textContent === 'site.json is no picture that this browser can read.'")
    tab.close()


def test_a_picture_is_made_smaller_where_the_network_needs_the_whole(
    browser: Any, address: str, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    make_site("transformer_net")
    Image.new("RGB", (1024, 1024), (90, 120, 40)).save(tmp_path / "large.png")
    tab = SiteTab(browser, f"{address}a%20path/transformer_net/")
    tab.wait_for_picture()
    tab.page.locator("#file").set_input_files(tmp_path / "large.png")
    tab.wait_for_picture("1")
    assert tab.get_text("source") == "large.png, made smaller (512 × 512): this network needs the whole picture at once."
    assert tab.read_pixels().shape == (512, 512, 3)
    tab.close()


def test_three_members_have_a_path_and_sliders(browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    site = make_site("three_compact_x2", alpha="path=0.25")
    tab = SiteTab(browser, f"{address}a%20path/three_compact_x2/")
    tab.wait_for_picture()
    check_picture(tab, site.bundle, find_sample(site), [0.5, 0.5, 0.0])
    tab.page.get_by_label("c", exact=True).fill("0.6")
    tab.until("location.hash === '#alpha=a=0.2,b=0.2,c=0.6'")
    tab.wait_for_picture("1")
    check_picture(tab, site.bundle, find_sample(site), [0.2, 0.2, 0.6])
    tab.page.get_by_label("path through all members").fill("1")
    tab.until("document.getElementById('picture').dataset.shares === '0.000 0.000 1.000'")
    tab.wait_for_picture("2")
    check_picture(tab, site.bundle, find_sample(site), [0.0, 0.0, 1.0])
    tab.close()


def test_before_and_after_by_pointer_and_keys(browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    make_site("compact")
    tab = SiteTab(browser, f"{address}a%20path/compact/")
    tab.wait_for_picture()
    box = tab.page.locator("#drop").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50, steps=4)
    tab.page.mouse.up()
    assert tab.evaluate("document.getElementById('cut').valueAsNumber") == pytest.approx(25, abs=1)
    tab.page.keyboard.press("v")
    assert tab.evaluate("document.getElementById('before').hidden") is True
    tab.page.get_by_label("before and after").check()
    assert tab.evaluate("document.getElementById('before').hidden") is False
    tab.close()


def test_a_stored_slider_has_even_steps(browser: Any, address: str, folder: Path, pico_case: Callable[[str], Case]) -> None:
    bundle = store_slider(write(pico_case("compact_x2"), folder / "even.dni"), ((0.0, 0.0), (0.2, 0.5), (1.0, 1.0)))
    dni.web(bundle, folder / "even", runtime=find_runtime())
    tab = SiteTab(browser, f"{address}even/", "#alpha=0")
    tab.wait_for_picture()
    tab.page.get_by_label("even steps to the eye, towards a").fill("0.1")
    tab.until("location.hash === '#alpha=a=0.25,b=0.75'")
    tab.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_page_fits_the_screen(
    width: int, scheme: str, browser: Any, address: str, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    make_site("demo")
    tab = SiteTab(browser, f"{address}a%20path/demo/", width=width, scheme=scheme)
    tab.wait_for_picture()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(20, 23, 26)") is (scheme == "dark")
    assert tab.evaluate("document.querySelectorAll('input:not([type=radio])').length >= 3")
    tab.page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    tab.close()


def test_threads_are_used_where_the_server_allows_them(browser: Any, folder: Path, make_site: Callable[..., Site]) -> None:
    make_site("compact")
    with serve_folder(folder, isolated=True) as isolated:
        tab = SiteTab(browser, f"{isolated}a%20path/compact/")
        tab.wait_for_picture()
        cores = tab.evaluate("Math.min(8, navigator.hardwareConcurrency)")
        assert tab.get_text("m-engine").startswith(f"WebAssembly, {cores} thread")
        tab.close()


def test_where_it_cannot_work_the_page_says_so(browser: Any, address: str, make_site: Callable[..., Site]) -> None:
    site = make_site("compact")
    tab = SiteTab(browser, site.folder.as_uri(), "/index.html")
    tab.until("!document.getElementById('problem').hidden")
    assert tab.get_text("problem").startswith(
        "A browser does not let a page that is opened as a file read the network beside it."
    )
    tab.close()
    tab = SiteTab(browser, f"{address}a%20path/compact/", init_script="delete window.WebAssembly")
    tab.until("!document.getElementById('problem').hidden")
    assert tab.get_text("problem").startswith("This browser has neither WebGPU nor WebAssembly")
    tab.close()


def test_a_network_that_computes_something_else_is_not_shown(
    browser: Any, address: str, folder: Path, pico_case: Callable[[str], Case]
) -> None:
    dni.web(write(pico_case("compact_x2"), folder / "wrong.dni"), folder / "wrong", runtime=find_runtime())
    site = json.loads((folder / "wrong/site.json").read_bytes())
    site["check"]["expected"][3] += 0.01
    (folder / "wrong/site.json").write_text(json.dumps(site))
    tab = SiteTab(browser, f"{address}wrong/")
    tab.until("!document.getElementById('problem').hidden")
    assert tab.get_text("problem") == "The network computes something else here than when it was published."
    assert tab.evaluate("dni.frames") == 0
    tab.close()
    (folder / "wrong" / site["member_files"][0]["file"]).unlink()
    tab = SiteTab(browser, f"{address}wrong/")
    tab.until("document.getElementById('problem').textContent.endsWith('cannot be read (HTTP 404).')")
    tab.context.close()  # the browser reports the missing file on its console
