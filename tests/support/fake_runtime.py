"""Stand-ins for ONNX Runtime Web: small files whose hashes the code is made to expect."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256, sha512
from pathlib import Path

import pytest

from dni_deploy.website import runtime


def install_fake_runtime(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Path, Path]:
    """Writes the package as a folder of `npm install` and as an archive of `npm pack`, and makes their hashes the expected ones.

    Returns:
        The folder and the archive.
    """
    contents = {name: f"// {name}".encode() for name in runtime.RUNTIME_FILES}
    expected = {name: (runtime.RUNTIME_FILES[name][0], sha256(data).hexdigest()) for name, data in contents.items()}
    dist = folder / "node_modules" / runtime.RUNTIME_PACKAGE / "dist"
    dist.mkdir(parents=True)
    archive = folder / f"{runtime.RUNTIME_PACKAGE}-{runtime.RUNTIME_VERSION}.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in contents.items():
            (dist / name).write_bytes(data)
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(runtime, "RUNTIME_FILES", expected)
    monkeypatch.setattr(runtime, "RUNTIME_ARCHIVE_SHA512", sha512(archive.read_bytes()).hexdigest())
    return folder, archive
