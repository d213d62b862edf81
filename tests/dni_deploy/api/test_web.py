"""The site that `web` writes: its files, what replaces it, and what it is refused."""

from __future__ import annotations

import io
import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dni_deploy as dni
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_slider
from dni_deploy.cli.main import main
from dni_deploy.errors import CoefficientsError, MismatchError, UsageError
from tests.engines.conftest import write
from tests.support import handmade_graphs as hand
from tests.support import pico_bundle as pico
from tests.support.fake_runtime import install_fake_runtime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(hand.conv_without_bias_bn(), tmp_path_factory.mktemp("web") / "conv.dni")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install_fake_runtime(monkeypatch, tmp_path / "ort")[0]


def read_site(folder: Path) -> dict[str, Any]:
    site: dict[str, Any] = json.loads((folder / "site.json").read_bytes())
    return site


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_site_holds_what_it_names_and_nothing_else(bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    report = dni.web(bundle, tmp_path / "site", runtime=runtime)
    site = read_site(tmp_path / "site")
    assert set(site["files"]) == list_files(tmp_path / "site")
    assert (site["members"], site["alpha"], report.title) == (["a", "b"], [0.5, 0.5], "conv")
    assert report.size == sum(report.sizes.values())
    assert report.size == pytest.approx(sum(path.stat().st_size for path in (tmp_path / "site").rglob("*.*")), abs=2000)
    for stored in (site["graph"], site["statistics"], site["sample"], *site["member_files"]):
        data = (tmp_path / "site" / stored["file"]).read_bytes()
        assert stored["file"].partition("-")[2].partition(".")[0] == sha256(data).hexdigest()[:16]
        assert stored["size"] == len(data)
    assert max(site["check"]["expected"]) > min(site["check"]["expected"])
    for name, other in (("page.css", "page.css"), ("controls.js", "controls.js")):
        live = Path(dni.__file__).parent / "webui/page" / other
        assert (tmp_path / "site" / name).read_bytes() == live.read_bytes()


def test_the_page_refers_to_its_own_files_alone(bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    dni.web(bundle, tmp_path / "site", runtime=runtime, title='A "<b>title</b>" & more')
    names = list_files(tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text()
    assert "<h1>A &quot;&lt;b&gt;title&lt;/b&gt;&quot; &amp; more</h1>" in page
    assert "{{" not in page
    links = [link for link in re.findall(r'(?:src|href)="([^"]+)"', page) if not link.startswith("data:")]
    links += [
        link for name in names if name.endswith(".js") for link in re.findall(r'from "\./([^"]+)"', read_text(tmp_path, name))
    ]
    assert len(links) > 10
    assert set(links) <= names  # relative: the site may lie at any path
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith(
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self';"
    )
    assert "http" not in policy[1]
    for name in names - {"runtime/LICENSE.txt"}:
        if name.endswith((".js", ".css")) and not name.startswith("runtime/"):
            assert not re.findall(r"https?://(?!localhost:8000|www\.w3\.org/2000/svg)", read_text(tmp_path, name)), name


def read_text(folder: Path, name: str) -> str:
    return (folder / "site" / name).read_text(encoding="utf-8")


def test_sample_alpha_and_slider_are_those_that_were_asked_for(runtime: Path, tmp_path: Path) -> None:
    bundle = write(hand.conv_without_bias_bn(), tmp_path / "conv.dni")
    bundle = store_slider(bundle, ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0)))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    report = dni.web(bundle, tmp_path / "site", runtime=runtime, sample=tmp_path / "in.png", alpha="b=0.75,a=0.25")
    site = read_site(tmp_path / "site")
    assert (site["alpha"], site["sample"]["name"], report.sample) == ([0.25, 0.75], "in.png", "in.png")
    assert site["slider"] == [[0.0, 0.0], [0.25, 0.5], [1.0, 1.0]]
    assert site["check"]["shares"] == [0.25, 0.75]
    stored = Image.open(io.BytesIO((tmp_path / "site" / site["sample"]["file"]).read_bytes()))
    assert np.array_equal(np.asarray(stored), pixels)


def test_force_replaces_a_site_and_keeps_what_others_put_there(bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    dni.web(bundle, folder, runtime=runtime)
    before = list_files(folder)
    (folder / "CNAME").write_text("example.org")
    with pytest.raises(UsageError, match="give --force to replace a site"):
        dni.web(bundle, folder, runtime=runtime)
    Image.new("RGB", (24, 24)).save(tmp_path / "in.png")
    dni.web(bundle, folder, runtime=runtime, sample=tmp_path / "in.png", force=True)
    after = list_files(folder)
    assert (folder / "CNAME").read_text() == "example.org"
    assert {name.partition("-")[0] for name in before - after} == {"sample"}  # the old picture is gone
    assert set(read_site(folder)["files"]) == after - {"CNAME"}


def test_a_site_that_was_tampered_with_cannot_make_other_files_vanish(bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    dni.web(bundle, folder, runtime=runtime)
    (tmp_path / "precious.txt").write_text("mine")
    site = read_site(folder)
    site["files"] += ["../precious.txt", str(tmp_path / "precious.txt"), "runtime/../../precious.txt", 7, "..", ""]
    (folder / "site.json").write_text(json.dumps(site))
    dni.web(bundle, folder, runtime=runtime, force=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["", "{}", '{"format": "another"}', "[" * 5000, '{"format": "dni-deploy site", "files": 7}']
)
def test_a_folder_that_is_no_site_is_never_replaced(content: str, bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "site.json").write_text(content)
    with pytest.raises(UsageError, match="never replaced"):
        dni.web(bundle, folder, runtime=runtime, force=True)
    assert os.listdir(folder) == ["site.json"]


def test_refusals_come_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    missing = tmp_path / "no runtime"  # it is not looked at
    with pytest.raises(UsageError, match="does not exist"):
        dni.web(bundle, tmp_path / "no" / "site", runtime=missing)
    with pytest.raises(UsageError, match="A title has 1 to 200 characters"):
        dni.web(bundle, tmp_path / "site", runtime=missing, title=" ")
    with pytest.raises(CoefficientsError):
        dni.web(bundle, tmp_path / "site", runtime=missing, alpha=1.5)
    with pytest.raises(UsageError, match="no rules for groups"):
        dni.web(bundle, tmp_path / "site", runtime=missing, options=dni.SessionOptions(rules=["*=0.2"]))
    with pytest.raises(MismatchError, match="Frames need a network"):
        dni.web(pico.write(tmp_path / "pico.dni"), tmp_path / "site", runtime=missing)
    assert not (tmp_path / "site").exists()


def test_the_command_prints_sizes_and_the_runtime(
    bundle: Bundle, runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["web", str(bundle.path), "-o", str(tmp_path / "site"), "--runtime", str(runtime), "--title", "Look"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["command"], report["title"], report["runtime"]) == ("web", "Look", "1.30.0")
    assert set(report["sizes"]) == {"runtime", "network", "page"}
    assert main([*arguments, "--force"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"onnxruntime-web 1.30.0, from {runtime}" in out
    assert main(arguments) == 2
    assert "give --force" in capsys.readouterr().err
