"""File type detection: files that are not checkpoints are recognized before they are read, and never block."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path

import pytest

from dni_deploy.checkpoints import file_type
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.file_type import is_safetensors, open_checkpoint_file
from dni_deploy.errors import CheckpointError, LimitError
from tests.support.reading_files import assert_refused


def test_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent.pth", CheckpointError, "does not exist")
    assert_refused(tmp_path, CheckpointError, "folder")
    assert_refused(Path("/dev/zero"), CheckpointError, "device")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", CheckpointError, "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        folder = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/socket")  # the path of a socket may have 108 characters
        os.close(folder)
    assert_refused(tmp_path / "socket", CheckpointError, "socket")
    assert_refused(tmp_path / ("x" * 300), CheckpointError, "cannot be opened")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        Checkpoint.read("a\0b.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.pth"
    path.write_bytes(b"x")
    path.chmod(0)
    assert_refused(path, CheckpointError, "permission")


def test_a_false_length_allocates_no_more_than_the_file_size(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"12345\n789")
    with open_checkpoint_file(path) as file:
        assert (file.name, file.size, file.head) == (str(path), 9, b"12345\n789")
        assert file.read(2) == b"12"
        assert file.readline() == b"345\n"
        assert (file.tell(), file.read(2**62), file.read()) == (6, b"789", b"")
        assert file.sha256() == hashlib.sha256(b"12345\n789").hexdigest()
        assert file.tell() == 0
    assert file.file.closed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf <HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"GGUF", "GGUF"),
        (b"\x1f\x8b", "gzip"),
        (b"\x93NUMPY", "without names"),
    ],
)
def test_other_formats_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    assert_refused(tmp_path / "x.pth", CheckpointError, message)


def test_a_file_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pth").write_bytes(bytes(101))
    for memory, limit in ((100, "100"), (None, "10")):
        monkeypatch.setattr(file_type, "total_memory_bytes", lambda memory=memory: memory)
        monkeypatch.setattr(file_type, "UNKNOWN_MEMORY_BYTES", 10)
        assert_refused(tmp_path / "x.pth", LimitError, f"101 bytes, more than this machine's memory of {limit}.")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.bin", b"\x02\0\0\0\0\0\0\0{}", True),
        ("x.bin", b"\x03\0\0\0\0\0\0\0{}", False),  # the length is beyond the file
        ("x.SafeTensors", b"\x03\0\0\0\0\0\0\0{}", True),  # so that the error is about the length
        ("x.safetensors", b"PK\x03\x04" + bytes(8), False),
        ("x.safetensors", b"\x80\x02}.", False),
    ],
)
def test_safetensors_are_recognized_by_content(name: str, content: bytes, expected: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with open_checkpoint_file(tmp_path / name) as file:
        assert is_safetensors(file) is expected
