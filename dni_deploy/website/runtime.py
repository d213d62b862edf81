"""ONNX Runtime Web, which the page runs: one version, taken from the user's npm or from a folder, and checked by its SHA-256.

A wheel of ours carries no program of others, so the files come from npm when a site is made. Two variants are copied: one for
WebAssembly alone, and one for WebGPU, which needs a browser with JavaScript Promise Integration (the variant for others is larger
than some hosts take, and slower).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from hashlib import sha256, sha512
from pathlib import Path

from dni_deploy.errors import InputError, MismatchError, UnavailableError, escape_name

log = logging.getLogger(__name__)

RUNTIME_PACKAGE = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_ARCHIVE_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
"""Of the archive that npm packs: its `integrity` in a lock file, in hex."""

RUNTIME_FILES = {
    "ort.wasm.min.mjs": ("ort.wasm.js", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm-simd-threaded.mjs": (
        "ort-wasm-simd-threaded.js",
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    ),
    "ort-wasm-simd-threaded.wasm": (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
    "ort.jspi.min.mjs": ("ort.jspi.js", "bc57179d923fda2d88d4a395359c8df44399dde087bf9ff44fc0e40ab398e4d9"),
    "ort-wasm-simd-threaded.jspi.mjs": (
        "ort-wasm-simd-threaded.jspi.js",
        "270e2c6da9f297239d301d329782b6446641cb1e16a77967690adcfca35f3268",
    ),
    "ort-wasm-simd-threaded.jspi.wasm": (
        "ort-wasm-simd-threaded.jspi.wasm",
        "a54c76f86b0f0d9572380cf1c6292a7b3903716ffcbcd6b0e5c7050bf430eb93",
    ),
}
"""File in the package's `dist` -> its name on the site, and its SHA-256. On the site no name ends in .mjs: many servers do not know
that it is JavaScript, and a browser then refuses it."""

LICENSE_TEXT = """ONNX Runtime Web {version}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

NPM_TIMEOUT_S = 600.0


def read_runtime(folder: Path | None) -> tuple[dict[str, bytes], str]:
    """Reads the runtime's files.

    Args:
        folder: A folder of `npm install onnxruntime-web`, the package's own folder or its `dist`, or the archive of `npm pack`;
            None runs `npm pack` in a temporary folder, which uses npm's cache and settings.

    Returns:
        Content by name on the site, the license among them, and where it came from, for people.

    Raises:
        UnavailableError: There is no npm, or it cannot get the package.
        InputError: `folder` does not hold the package, or a file cannot be read.
        MismatchError: A file is not that of RUNTIME_VERSION.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="dni-deploy-web-") as temporary:
            files = _read_archive(_pack_with_npm(Path(temporary)))
        origin = f"{RUNTIME_PACKAGE} {RUNTIME_VERSION}, by npm pack"
    else:
        files = _read_archive(folder) if folder.is_file() else _read_folder(folder)
        origin = f"{RUNTIME_PACKAGE} {RUNTIME_VERSION}, from {escape_name(folder)}"
    files["LICENSE.txt"] = LICENSE_TEXT.format(version=RUNTIME_VERSION).encode()
    return files, origin


def _read_folder(folder: Path) -> dict[str, bytes]:
    places = [folder / "node_modules" / RUNTIME_PACKAGE / "dist", folder / RUNTIME_PACKAGE / "dist", folder / "dist", folder]
    dist = next((place for place in places if (place / "ort.wasm.min.mjs").is_file()), None)
    if dist is None:
        raise InputError(
            f"{escape_name(folder)} does not hold {RUNTIME_PACKAGE}; make such a folder with "
            f"npm install --prefix FOLDER {RUNTIME_PACKAGE}@{RUNTIME_VERSION}"
        )

    def read_file(name: str) -> bytes:
        try:
            return (dist / name).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{escape_name(dist / name)} cannot be read ({reason}).") from error

    return _check_files(read_file, str(dist))


def _read_archive(archive: Path) -> dict[str, bytes]:
    try:
        if sha512(archive.read_bytes()).hexdigest() != RUNTIME_ARCHIVE_SHA512:
            raise _mismatch_error(archive.name)
        with tarfile.open(archive, "r:gz") as tar:

            def read_file(name: str) -> bytes:
                member = tar.extractfile(f"package/dist/{name}")
                assert member is not None  # the archive is exactly the known one
                return member.read()

            return _check_files(read_file, archive.name)
    except OSError as error:
        raise InputError(f"{escape_name(archive)} cannot be read ({error.strerror or error}).") from error


def _check_files(read_file: Callable[[str], bytes], where: str) -> dict[str, bytes]:
    files = {}
    for name, (site_name, digest) in RUNTIME_FILES.items():
        data = read_file(name)
        if sha256(data).hexdigest() != digest:
            raise _mismatch_error(f"{where}: {name}")
        files[site_name] = data
    return files


def _mismatch_error(where: str) -> MismatchError:
    return MismatchError(
        f"{escape_name(where)} is not that of {RUNTIME_PACKAGE} {RUNTIME_VERSION}, the version that the page was tested with: its "
        f"hash differs. Get it with npm install --prefix FOLDER {RUNTIME_PACKAGE}@{RUNTIME_VERSION}"
    )


def _pack_with_npm(folder: Path) -> Path:
    """Lets npm download the package into a folder; none of the package's scripts run."""
    npm = shutil.which("npm")
    advice = (
        f"Install Node.js, or copy a folder of npm install {RUNTIME_PACKAGE}@{RUNTIME_VERSION} here and name it with --runtime."
    )
    if npm is None:
        raise UnavailableError(f"The page needs {RUNTIME_PACKAGE}, which npm downloads, and there is no npm here. {advice}")
    command = [npm, "pack", f"{RUNTIME_PACKAGE}@{RUNTIME_VERSION}", "--ignore-scripts", "--prefer-offline", "--silent"]
    log.info("running %s", " ".join(command))
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"npm could not download {RUNTIME_PACKAGE} ({type(error).__name__}). {advice}") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        raise UnavailableError(f"npm could not download {RUNTIME_PACKAGE}: {escape_name(reason, 200)}. {advice}")
    return archives[0]
