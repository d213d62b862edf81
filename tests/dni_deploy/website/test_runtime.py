"""ONNX Runtime Web for a site: from a folder, an archive or npm, and nothing but the known version."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

from dni_deploy.errors import InputError, MismatchError, UnavailableError
from dni_deploy.website import runtime
from dni_deploy.website.runtime import RUNTIME_FILES, read_runtime
from tests.support.fake_runtime import install_fake_runtime

NAMES = {"LICENSE.txt", *(name for name, _ in RUNTIME_FILES.values())}


def test_a_folder_its_package_and_an_archive_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = install_fake_runtime(monkeypatch, tmp_path)
    package = folder / "node_modules" / "onnxruntime-web"
    files, origin = read_runtime(folder)
    assert set(files) == NAMES
    assert files["ort.wasm.js"] == b"// ort.wasm.min.mjs"
    assert not any(name.endswith(".mjs") for name in files)  # a server that does not know the suffix would break the page
    assert b"Microsoft" in files["LICENSE.txt"]
    assert origin == f"onnxruntime-web 1.30.0, from {folder}"
    for other in (folder / "node_modules", package, package / "dist", archive):
        assert read_runtime(other)[0] == files


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = install_fake_runtime(monkeypatch, tmp_path)
    changed = folder / "node_modules/onnxruntime-web/dist/ort.jspi.min.mjs"
    changed.write_bytes(b"// another one")
    with pytest.raises(MismatchError, match=r"ort\.jspi\.min\.mjs is not that of onnxruntime-web 1\.30\.0"):
        read_runtime(folder)
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(MismatchError, match="its hash differs"):
        read_runtime(archive)


def test_a_folder_without_the_package_and_a_missing_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"npm install --prefix FOLDER onnxruntime-web@1\.30\.0"):
        read_runtime(tmp_path)
    folder, _ = install_fake_runtime(monkeypatch, tmp_path / "ort")
    (folder / "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(InputError, match=r"ort-wasm-simd-threaded\.wasm cannot be read"):
        read_runtime(folder)


def install_fake_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\nimport shutil, sys\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a script with a #! line")
def test_npm_packs_the_pinned_version_and_runs_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, archive = install_fake_runtime(monkeypatch, tmp_path / "ort")
    check = 'assert sys.argv[1:4] == ["pack", "onnxruntime-web@1.30.0", "--ignore-scripts"], sys.argv'
    install_fake_npm(monkeypatch, tmp_path / "bin", f"{check}\nshutil.copy({str(archive)!r}, '.')")
    files, origin = read_runtime(None)
    assert set(files) == NAMES
    assert origin == "onnxruntime-web 1.30.0, by npm pack"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a script with a #! line")
def test_npm_that_fails_or_is_missing_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_npm(monkeypatch, tmp_path / "bin", "sys.exit('npm error code ENOTFOUND')")
    with pytest.raises(UnavailableError, match=r"ENOTFOUND\. Install Node\.js, or .* --runtime"):
        read_runtime(None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="there is no npm here"):
        read_runtime(None)
    assert runtime.NPM_TIMEOUT_S >= 60
