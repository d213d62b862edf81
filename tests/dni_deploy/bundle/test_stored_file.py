"""One file of a bundle: it is read only if its size, SHA-256 and file type match the manifest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.manifest import MAX_MANIFEST_BYTES, StoredFile
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, RefusedError

DATA = b"weights" * 1000


@pytest.fixture
def stored(tmp_path: Path) -> StoredFile:
    entry = StoredFile.for_data("weights", "bin", DATA)
    (tmp_path / entry.file).write_bytes(DATA)
    return entry


def test_the_file_name_contains_the_digest() -> None:
    entry = StoredFile.for_data("graph", "onnx", b"")
    assert entry == StoredFile(
        "graph-e3b0c44298fc1c14.onnx", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0
    )


def test_content_is_returned_or_only_verified(stored: StoredFile, tmp_path: Path) -> None:
    assert read_verified(tmp_path, stored) == DATA
    assert read_verified(tmp_path, stored, keep=False) == b""


def test_kept_content_is_read_at_once_so_that_it_is_not_joined_from_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATA * 1000
    stored = StoredFile.for_data("weights", "bin", data)
    (tmp_path / stored.file).write_bytes(data)
    chunks, read = [], os.read

    def remember(descriptor: int, count: int) -> bytes:
        chunks.append(read(descriptor, count))
        return chunks[-1]

    monkeypatch.setattr(os, "read", remember)
    content = read_verified(tmp_path, stored)
    assert len(chunks) == 1
    assert content is chunks[0]


def test_short_reads_are_joined(stored: StoredFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: read(descriptor, min(count, 11)))
    assert read_verified(tmp_path, stored) == DATA


@pytest.mark.parametrize(
    ("data", "message"),
    [(DATA[:-1], "6999 bytes, the manifest says 7000"), (DATA + b"x", "7001 bytes"), (b"W" + DATA[1:], "SHA-256")],
)
def test_changed_content_is_refused(stored: StoredFile, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / stored.file).write_bytes(data)
    for keep in (True, False):
        with pytest.raises(BundleError, match=message):
            read_verified(tmp_path, stored, keep=keep)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the bundle is incomplete, or was replaced"):
        read_verified(tmp_path, StoredFile.for_data("graph", "onnx", b""))
    with pytest.raises(BundleError, match="it is not a bundle"):
        read_verified(tmp_path, None)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_pipes_and_folders_are_refused_without_waiting(stored: StoredFile, tmp_path: Path) -> None:
    path = tmp_path / stored.file
    for make in (lambda: path.symlink_to(tmp_path / "real"), lambda: os.mkfifo(path), lambda: os.mkdir(path)):
        os.rename(path, tmp_path / "real") if path.is_file() else None
        make()
        with pytest.raises(RefusedError, match="plain file"):
            read_verified(tmp_path, stored)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_manifest_is_not_read_past_its_limit(tmp_path: Path) -> None:
    with open(tmp_path / MANIFEST_FILE_NAME, "wb") as stream:
        stream.truncate(3 * MAX_MANIFEST_BYTES)
    assert len(read_verified(tmp_path, None)) == MAX_MANIFEST_BYTES + 1  # one more, so that it is refused as too large
