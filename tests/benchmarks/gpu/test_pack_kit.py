"""The parcels for a GPU machine, from small files in place of the wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import pack_kit, run_all
from dni_deploy.errors import LimitError

LIBRARY_BYTES = {
    name: np.random.default_rng(seed).integers(0, 256, 50_000, np.uint8).tobytes()
    for seed, name in enumerate(pack_kit.LIBRARIES)
}
"""Cannot be compressed."""


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a file of 1,000 bytes, and small wheels and networks in place of the real ones."""
    root = tmp_path / "checkout"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / "tracked").write_bytes(bytes(1000))
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    wheels = {
        "polygraphy==0.53.6": {"polygraphy/__init__.py": b"name = 'polygraphy'\n"},
        "tensorrt-rtx-cu13-bindings==1.7.1.116": {
            "tensorrt_rtx_bindings/__init__.py": b"__version__ = '1.7'\nBuilder = 'it'\n"
        },
        pack_kit.LIBRARY_WHEEL: {f"package/{name}": data for name, data in LIBRARY_BYTES.items()} | {"package/other.so": b"no"},
    }

    def download(package: str, folder: Path, python: str) -> Path:
        assert python == "3.12"
        return write_wheel(folder / f"{package}.whl", wheels[package])

    def prepare(folder: Path, names: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / f"{name}.npz").write_text(name)

    monkeypatch.setattr(pack_kit, "ROOT", root)
    monkeypatch.setattr(pack_kit, "download", download)
    monkeypatch.setattr(pack_kit, "prepare_networks", prepare)
    monkeypatch.setattr(pack_kit, "MAX_PARCEL_BYTES", 40_000)
    return root


def unpack(parcels: list[Path], folder: Path) -> None:
    """Unpacks as the printed commands do."""
    folder.mkdir()
    (folder / "rtx.tar.xz").write_bytes(
        b"".join(part.read_bytes() for parcel in parcels for part in parcel.glob("rtx.tar.xz.*"))
    )
    for path in (parcels[0] / "base.tar.xz", folder / "rtx.tar.xz"):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")


def test_parcels_unpack_to_modules_libraries_and_networks(checkout: Path, tmp_path: Path) -> None:
    kit = checkout / "kit"
    parcels = pack_kit.pack(kit, "3.12", ["compact", "rrdb"])
    assert [parcel.name for parcel in parcels] == ["parcel.0", "parcel.1", "parcel.2"]
    assert all(sum(path.stat().st_size for path in parcel.iterdir()) <= 40_000 for parcel in parcels)
    target = tmp_path / "target"
    unpack(parcels, target)
    assert sorted(path.name for path in (target / "prepared").iterdir()) == ["compact.npz", "rrdb.npz"]
    assert sorted(path.name for path in (target / "lib").iterdir()) == sorted(
        {*pack_kit.LIBRARIES, *pack_kit.LIBRARIES.values()}
    )
    for name, loaded_as in pack_kit.LIBRARIES.items():
        assert (target / "lib" / loaded_as).read_bytes() == LIBRARY_BYTES[name]
    code = "import tensorrt_rtx as trt, polygraphy; print(trt.__version__, trt.Builder, polygraphy.name)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=target / "site", capture_output=True, text=True, check=True)
    assert done.stdout == "1.7 it polygraphy\n"
    before = {path: path.stat().st_mtime_ns for path in [kit / "rtx.tar.xz"]}
    assert pack_kit.pack(kit, "3.12", ["compact", "rrdb"]) == parcels
    assert before == {path: path.stat().st_mtime_ns for path in before}  # what takes minutes is not done again


def test_the_kit_is_no_part_of_the_tree_and_calls_that_are_too_large_are_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_kit.main([str(checkout / "kit")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert pack_kit.count_tree_bytes(checkout) == 1000
    assert lines[0] == "parcel.0 and the tree: 0.0 of 67.1 MB"
    (checkout / "tracked").unlink()  # as a sparse checkout has it
    assert pack_kit.count_tree_bytes(checkout) == 0
    (checkout / "new").write_bytes(bytes(2000))
    assert pack_kit.count_tree_bytes(checkout) == 2000
    monkeypatch.setattr(pack_kit, "MAX_CALL_BYTES", 41_000)
    assert pack_kit.main([str(checkout / "kit")]) == LimitError.exit_code
    assert "sparse-checkout" in capsys.readouterr().err


def test_printed_commands_are_valid(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack_kit.main([str(checkout / "kit")])
    text = capsys.readouterr().out
    commands = re.findall(r"python3 -m benchmarks\.gpu\.run_all (.*)", text)
    options = [run_all.make_parser().parse_args(command.split()) for command in commands]
    assert options[0].only == "kernels,kernel-bandwidth"
    assert options[1].only is None
    assert {step.name for step in run_all.list_steps()} >= set(options[0].only.split(","))
    assert text.count("cp -r kit/parcel.") == 3
    assert all(len(call) < 2000 for call in text.split("and the tree"))  # the longest command that a machine may take
    assert set(pack_kit.NETWORK_NAMES) == {network for network, _ in run_all.FIRST_CASES}


def test_a_download_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_kit.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(Exception, match="could not be downloaded"):
        pack_kit.download("nothing==1", tmp_path, "3.12")
    wheel = write_wheel(tmp_path / "nothing-1-py3-none-any.whl", {})
    assert pack_kit.download("nothing==1", tmp_path, "3.12") == wheel  # it is there
