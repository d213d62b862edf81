"""Machine code of the kernels: what is shipped for the known GPUs, and nvcc for any other GPU or a changed source.

`engines/cuda/compiled/` has a cubin of each source for each architecture of CUBIN_ARCHITECTURES and PTX for all that are newer,
compressed; `python -m engines.cuda.compile` writes it. What nvcc compiles here is kept in the cache folder under the hash of all
that it depends on. A file there of another owner, with other writers or with a wrong SHA-256 is not used.
"""

from __future__ import annotations

import json
import logging
import lzma
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from dni_deploy.errors import DniError, EngineError, UnavailableError, escape_name
from dni_deploy.utils.derived_file import read_derived_file, write_derived_file
from dni_deploy.utils.hardware import cache_folder
from engines.cuda import driver

log = logging.getLogger(__name__)

KERNEL_SOURCE = Path(__file__).with_name("blend.cu")
FRAME_SOURCE = Path(__file__).with_name("frame.cu")
NVCC_OPTIONS = ("-std=c++17", "-fmad=false")
"""No fused operations except those that are written as such, so that the host's compiler gives the same bits."""

CUBIN_ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
PTX_ARCHITECTURE = "compute_75"
"""The oldest that CUDA 13 compiles for: the driver compiles this PTX for every newer GPU."""
TEGRA_CAPABILITIES = {(8, 7), (10, 1)}
"""Orin and Thor, which do not run the cubins of desktop GPUs. Source: CUDA C++ Programming Guide 13.0, "Binary Compatibility"."""

COMPILED_FOLDER = Path(__file__).with_name("compiled")
MANIFEST_NAME = "manifest.json"


def read_source(source: Path) -> str:
    """Reads a source; its text is the same whatever the line ends of the checkout are."""
    return source.read_text(encoding="utf-8")


def hash_source(source: Path) -> str:
    """Returns the SHA-256 of a source and of the options that it is compiled with."""
    return sha256("\0".join([read_source(source), *NVCC_OPTIONS]).encode()).hexdigest()


def file_name(source: Path, architecture: str) -> str:
    """Returns the name of a source's file in COMPILED_FOLDER, such as "blend.sm_90.cubin.xz"."""
    kind = "ptx" if architecture == PTX_ARCHITECTURE else "cubin"
    return f"{source.stem}.{architecture}.{kind}.xz"


def choose_architectures(capability: tuple[int, int]) -> list[str]:
    """Chooses what of the shipped machine code runs on a GPU.

    Args:
        capability: The GPU's compute capability, (major, minor).

    Returns:
        Architectures, the best first: the newest cubin of the same major version and no newer minor version, then PTX.
        Empty for a GPU that is older than all of it.
    """
    major, minor = capability
    minors = [int(name[-1]) for name in CUBIN_ARCHITECTURES if name[3:-1] == str(major) and int(name[-1]) <= minor]
    cubins = [f"sm_{major}{max(minors)}"] if minors and capability not in TEGRA_CAPABILITIES else []
    return [*cubins, PTX_ARCHITECTURE] if capability >= (7, 5) else []


def is_shipped(source: Path) -> bool:
    """Tells whether the shipped machine code is that of this source, which a developer may have changed."""
    try:
        manifest = json.loads((COMPILED_FOLDER / MANIFEST_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(manifest["sources"].get(source.name) == hash_source(source))


def read_shipped_code(capability: tuple[int, int], source: Path) -> Iterator[bytes]:
    """Reads the shipped machine code that runs on a GPU, the best first; nothing where the source was changed.

    Args:
        capability: The GPU's compute capability.
        source: KERNEL_SOURCE or FRAME_SOURCE.

    Yields:
        A cubin, or PTX, which ends with a zero byte as the driver wants it.
    """
    if not is_shipped(source):
        log.info("%s was changed: nvcc compiles it", source.name)
        return
    for architecture in choose_architectures(capability):
        path = COMPILED_FOLDER / file_name(source, architecture)
        try:
            code = _decompress(path)
        except (OSError, lzma.LZMAError) as error:
            log.warning("%s cannot be read: %s", path, error)
            continue
        log.info("%s of %s is read for compute capability %d.%d", architecture, source.name, *capability)
        yield code


@lru_cache(maxsize=4)
def _decompress(path: Path) -> bytes:
    code = lzma.decompress(path.read_bytes())
    return code + b"\0" if path.name.endswith(".ptx.xz") else code


def load_compiled_code(architecture: str, source: Path = KERNEL_SOURCE) -> bytes:
    """Compiles a source for an architecture, or reads from the cache what was compiled before.

    Args:
        architecture: Such as "sm_90".
        source: KERNEL_SOURCE or FRAME_SOURCE.

    Returns:
        The machine code (cubin).

    Raises:
        UnavailableError: There is no CUDA compiler, or it cannot be run.
        EngineError: It cannot compile the kernels.
    """
    nvcc = driver.find_nvcc()
    if nvcc is None:
        raise UnavailableError(
            f"The shipped machine code of {source.name} does not fit this GPU ({architecture}), its driver or the source, and the "
            "CUDA compiler nvcc, which could make another, is not on the PATH: install a newer driver, or the CUDA toolkit "
            "(conda install -c nvidia cuda-nvcc, or cuda-nvcc from NVIDIA's apt repository), or set CUDA_HOME to its folder."
        )
    version = run_nvcc(nvcc, ["--version"])
    key = sha256("\0".join([read_source(source), architecture, version, *NVCC_OPTIONS]).encode()).hexdigest()
    code = _read_cached(key)
    if code is None:
        code = compile_source(nvcc, source, architecture)
        _write_cached(key, code)
    return code


def compile_source(nvcc: str, source: Path, architecture: str) -> bytes:
    """Compiles a source.

    Args:
        nvcc: The compiler.
        source: The source.
        architecture: "sm_90" and so on for a cubin, "compute_75" and so on for PTX.

    Returns:
        The cubin or the PTX.

    Raises:
        UnavailableError: The compiler cannot be run.
        EngineError: It cannot compile the source.
    """
    kind = "--ptx" if architecture.startswith("compute_") else "--cubin"
    with TemporaryDirectory(prefix="dni-deploy-") as folder:
        output = Path(folder, "kernels")
        try:
            run_nvcc(nvcc, [*NVCC_OPTIONS, f"-arch={architecture}", kind, "-o", str(output), str(source)])
        except subprocess.CalledProcessError as error:
            lines = [line for line in str(error.stderr or error.stdout or "").splitlines() if line.strip()]
            reason = escape_name(lines[0]) if lines else "it gave no reason"
            raise EngineError(
                f"nvcc could not compile {source.name} for {architecture}: {reason}. "
                "It needs a C++ compiler beside it, and a version that knows this GPU."
            ) from error
        return output.read_bytes()


def run_nvcc(nvcc: str, arguments: Sequence[str]) -> str:
    """Runs the compiler.

    Returns:
        What it printed.

    Raises:
        UnavailableError: It cannot be run.
        subprocess.CalledProcessError: It refuses.
    """
    try:
        return subprocess.run([nvcc, *arguments], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    except OSError as error:
        raise UnavailableError(f"The CUDA compiler {escape_name(nvcc)} could not be run: {escape_name(error)}.") from error


def _cache_path(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "cuda" / f"{key}.cubin"


def _read_cached(key: str) -> bytes | None:
    path = _cache_path(key)
    return None if path is None else read_derived_file(path, "machine code") or None


def _write_cached(key: str, code: bytes) -> None:
    """Keeps the machine code for the next time; where that cannot be done, it is compiled again then."""
    path = _cache_path(key)
    if path is None:
        return
    with suppress(DniError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_derived_file(path, code, force=True)
