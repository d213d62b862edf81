"""Compiles the machine code that is shipped: `python -m engines.cuda.compile`, or `make kernels`.

Needed after every change of blend.cu, frame.cu or the options. It needs nvcc, a C++ compiler and about two minutes, and no GPU. The
same nvcc writes the same bytes again.
"""

from __future__ import annotations

import json
import lzma
import re
from hashlib import sha256

from dni_deploy.errors import UnavailableError
from engines.cuda import driver, machine_code
from engines.cuda.machine_code import CUBIN_ARCHITECTURES, FRAME_SOURCE, KERNEL_SOURCE, NVCC_OPTIONS, PTX_ARCHITECTURE

PTX_VERSION = b"7.0"
"""The PTX version that is declared, that of CUDA 11.0: a driver refuses PTX of a newer version than its own, whatever is in it."""


def compile_all(nvcc: str) -> dict[str, bytes]:
    """Compiles every source for every architecture.

    Returns:
        The contents of COMPILED_FOLDER by name, the manifest among them.

    Raises:
        EngineError: The compiler refuses a source.
    """
    contents, hashes = {}, {}
    for source in (KERNEL_SOURCE, FRAME_SOURCE):
        for architecture in (*CUBIN_ARCHITECTURES, PTX_ARCHITECTURE):
            code = machine_code.compile_source(nvcc, source, architecture)
            if architecture == PTX_ARCHITECTURE:
                code = re.sub(rb"(?m)^\.version .*$", b".version " + PTX_VERSION, code)
            name = machine_code.file_name(source, architecture)
            contents[name], hashes[name] = lzma.compress(code, preset=9), sha256(code).hexdigest()
            print(f"{name}: {len(code):,} bytes, compressed {len(contents[name]):,}")
    manifest = {
        "compiler": find_release(machine_code.run_nvcc(nvcc, ["--version"])),
        "options": NVCC_OPTIONS,
        "sources": {source.name: machine_code.hash_source(source) for source in (KERNEL_SOURCE, FRAME_SOURCE)},
        "uncompressed": hashes,
    }
    contents[machine_code.MANIFEST_NAME] = (json.dumps(manifest, indent=2) + "\n").encode()
    return contents


def find_release(version: str) -> str:
    """Returns the line of `nvcc --version` that names the release, or all of it."""
    return next((line for line in version.splitlines() if "release" in line), version)


def main() -> None:
    """Writes COMPILED_FOLDER anew."""
    nvcc = driver.find_nvcc()
    if nvcc is None:
        raise UnavailableError("nvcc is not on the PATH: install the CUDA toolkit, or set CUDA_HOME to its folder.")
    contents = compile_all(nvcc)
    folder = machine_code.COMPILED_FOLDER
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    print(f"{folder}: {sum(map(len, contents.values())):,} bytes")


if __name__ == "__main__":
    main()
