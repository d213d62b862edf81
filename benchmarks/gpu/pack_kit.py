"""Packs what a GPU machine without a package index lacks, in parcels that travel there beside the tracked tree, one per call.

    python -m benchmarks.gpu.pack_kit FOLDER

Downloads wheels from the package index, prepares the networks' graphs, and prints the size and the commands of each call. An
interrupted run is resumed. FOLDER ignores itself in git: NVIDIA's libraries must not be committed, shipped or changed.
"""

from __future__ import annotations

import argparse
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.result_file import describe_commit
from dni_deploy.errors import DniError, LimitError, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
MAX_CALL_BYTES = 64 << 20
"""What one call carries, the tree included."""
MAX_PARCEL_BYTES = 60_000_000
NETWORK_NAMES = ("compact", "dncnn", "rrdb")
LIBRARY_WHEEL = "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
"""Brings the libraries of TensorRT for RTX 1.7.1, which the bindings do not."""
LIBRARIES = {
    "libtensorrt_rtx.so.1.7.1": "libtensorrt_rtx.so.1",
    "libtensorrt_onnxparser_rtx.so.1.7.1": "libtensorrt_onnxparser_rtx.so.1",
}
"""Each library of LIBRARY_WHEEL, and the name by which it is loaded."""
WHEELS = ("polygraphy==0.53.6", "tensorrt-rtx-cu13-bindings==1.7.1.116")
PLATFORM = "manylinux_2_28_x86_64"
MODULE_SOURCE = '''"""TensorRT for RTX by the name under which it is imported: the package around the bindings has no code of its own."""

from tensorrt_rtx_bindings import *
from tensorrt_rtx_bindings import __version__
'''
SPARSE_CHECKOUT_ADVICE = (
    "Leave out of the checkout what the kit does not need: git sparse-checkout set --no-cone '/*' '!/docs' "
    "'!/benchmarks/paper_reproduction' '!/dni_deploy/data'; afterwards: git sparse-checkout disable."
)
UNPACK_COMMANDS = """    K=/opt/kit; mkdir -p $K/out; cp -r {folder}/parcel.{number}/* $K/
    export PYTHONPATH=$K/site LD_LIBRARY_PATH=$K/lib
"""
FIRST_CALL = """    python3 -m tarfile -e $K/base.tar.xz $K
    python3 -m benchmarks.gpu.run_all --prepared $K/prepared --work $K/work --commit {commit} -o $K/out --only kernels,kernel-bandwidth
"""
EVERY_CALL_END = """    tar -czf $OUT/out.tgz -C $K out
"""
LAST_CALL = """    cat $K/rtx.tar.xz.* > $K/rtx.tar.xz; python3 -m tarfile -e $K/rtx.tar.xz $K
    python3 -m benchmarks.gpu.run_all --prepared $K/prepared --work $K/work --commit {commit} -o $K/out --budget 400
"""


def download(package: str, folder: Path, python: str) -> Path:
    """Downloads the wheel of a package for a Python version, unless it is there; UnavailableError if that fails."""
    name = package.partition("==")[0].replace("-", "_")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", PLATFORM]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder), package]
    if not list(folder.glob(f"{name}-*.whl")) and subprocess.run(command, check=False).returncode:
        raise UnavailableError(f"{package} could not be downloaded.")
    return next(folder.glob(f"{name}-*.whl"))


def fill_site(wheels: Sequence[Path], site: Path) -> None:
    """Unpacks the wheels into a folder of modules."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (site / "tensorrt_rtx").mkdir(parents=True, exist_ok=True)
    (site / "tensorrt_rtx" / "__init__.py").write_text(MODULE_SOURCE)


def fill_libraries(wheel: Path, folder: Path) -> None:
    """Takes the libraries out of their wheel and links the names by which they are loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rpartition("/")[2]
            if name in LIBRARIES:
                (folder / name).write_bytes(archive.read(member))
                (folder / LIBRARIES[name]).unlink(missing_ok=True)
                (folder / LIBRARIES[name]).symlink_to(name)


def prepare_networks(folder: Path, names: Sequence[str]) -> None:
    """Prepares each network in a process of its own, unless it is there: a large one takes minutes and gigabytes."""
    for name in names:
        if not (folder / f"{name}.npz").exists():
            command = [sys.executable, "-m", "benchmarks.gpu", "--prepare", str(folder), name]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                raise UnavailableError(f"{name} could not be prepared.")


def write_archive(path: Path, folders: Sequence[Path], preset: int = 9) -> None:
    """Writes folders into a .tar.xz, each under its own name."""
    partial = path.with_suffix(".partial")
    with lzma.open(partial, "wb", preset=preset) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for folder in folders:
            archive.add(folder, folder.name)
    partial.replace(path)


def cut_parcels(base: Path, libraries: Path, folder: Path) -> list[Path]:
    """Makes folders parcel.0, parcel.1, ...: the base and the beginning of the libraries, and then the rest of them."""
    data = libraries.read_bytes()
    parcels: list[Path] = []
    room = MAX_PARCEL_BYTES - base.stat().st_size
    while data or not parcels:
        parcels.append(folder / f"parcel.{len(parcels)}")
        parcels[-1].mkdir(exist_ok=True)
        (parcels[-1] / f"{libraries.name}.{len(parcels) - 1}").write_bytes(data[:room])
        data, room = data[room:], MAX_PARCEL_BYTES
    (parcels[0] / base.name).write_bytes(base.read_bytes())
    return parcels


def count_tree_bytes(root: Path) -> int:
    """Counts the bytes of the files that git tracks, and of new ones that it does not ignore, as far as they are checked out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    return sum((root / name).stat().st_size for name in names if name and (root / name).is_file())


def check_calls(parcels: Sequence[Path], tree_bytes: int) -> list[str]:
    """Describes what each call carries; LimitError if one is too large."""
    lines = []
    for parcel in parcels:
        nbytes = tree_bytes + sum(path.stat().st_size for path in parcel.iterdir())
        lines.append(f"{parcel.name} and the tree: {nbytes / 1e6:.1f} of {MAX_CALL_BYTES / 1e6:.1f} MB")
        if nbytes > MAX_CALL_BYTES:
            raise LimitError(f"{lines[-1]}, of which the tree is {tree_bytes / 1e6:.1f}: too large. {SPARSE_CHECKOUT_ADVICE}")
    return lines


def pack(folder: Path, python: str, names: Sequence[str]) -> list[Path]:
    """Fills the folder, as far as that was not done before, and returns the parcels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    downloads, base, libraries = folder / "downloads" / python, folder / "base.tar.xz", folder / "rtx.tar.xz"
    downloads.mkdir(parents=True, exist_ok=True)
    prepare_networks(folder / "prepared", names)
    fill_site([download(package, downloads, python) for package in WHEELS], folder / "site")
    write_archive(base, [folder / "site", folder / "prepared"])
    if not libraries.exists():
        fill_libraries(download(LIBRARY_WHEEL, downloads, python), folder / "lib")
        write_archive(libraries, [folder / "lib"])  # minutes
    return cut_parcels(base, libraries, folder)


def format_commands(folder: str, number: int, count: int, commit: str) -> str:
    """Formats the commands of one of `count` calls; `folder` is the kit's, relative to the checkout."""
    parts = [
        UNPACK_COMMANDS,
        *([FIRST_CALL] if number == 0 else []),
        *([LAST_CALL] if number == count - 1 else []),
        EVERY_CALL_END,
    ]
    return "".join(parts).format(folder=folder, number=number, commit=commit)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the kit, inside the checkout")
    parser.add_argument("--python", default="3.12", help="of the GPU machine (default %(default)s)")
    parser.add_argument("--networks", default=",".join(NETWORK_NAMES), metavar="NAME,...", help="default %(default)s")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    try:
        parcels = pack(folder, options.python, options.networks.split(","))
        lines = check_calls(parcels, count_tree_bytes(ROOT))
    except DniError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    for number, line in enumerate(lines):
        print(line)
        print(format_commands(os.path.relpath(folder, ROOT), number, len(lines), describe_commit(ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
