"""Intake: a file from outside, looked at before anything reads it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from dni_deploy.errors import CheckpointError, LimitError, escape_name

_OTHER_FILE_TYPES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file (Keras), not a PyTorch checkpoint",
    b"GGUF": "a GGUF file, not a PyTorch checkpoint",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array without names",
}


class CheckpointFile:
    """An open regular file.

    file  at position 0; closed by whoever opened the Intake.   name  safe to print.   size  bytes.   head  its first 1,024.
    read(n) and readline() give at most what the file has, so that a length in a damaged file allocates nothing.
    """

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.file, self.name, self.size = file, name, size
        self.head = file.read(1024)
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        return self.file.readline(1 << 16)  # no name in a pickle is longer

    def tell(self) -> int:
        return self.file.tell()

    def sha256(self) -> str:
        """Of the whole file, as hex; leaves the file at position 0."""
        digest = hashlib.sha256()
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            digest.update(chunk)
        self.file.seek(0)
        return digest.hexdigest()


@contextmanager
def open_checkpoint_file(path: str | os.PathLike[str]) -> Iterator[CheckpointFile]:
    """Open a regular file for reading, never waiting on a pipe.

    Raises CheckpointError: missing, a folder, a pipe or device, not readable, empty, a web page, a git-LFS pointer or a
    known other format. Raises LimitError for a file larger than this machine's memory.
    """
    name = escape_name(os.fspath(path), 100)
    try:
        kind = os.stat(path).st_mode  # before opening: opening a device can have effects, and opening a pipe can block
        descriptor = (
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)) if stat.S_ISREG(kind) else -1
        )
    except FileNotFoundError:
        raise CheckpointError(f"{name} does not exist.") from None
    except PermissionError:
        raise CheckpointError(f"{name} cannot be read: permission denied.") from None
    except (OSError, ValueError) as problem:
        reason = os.strerror(problem.errno) if isinstance(problem, OSError) and problem.errno else "not a file name"
        raise CheckpointError(f"{name} cannot be opened: {reason}.") from None
    if descriptor < 0:
        raise _not_a_file_error(kind, name)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file_error(status.st_mode, name)
        if status.st_size > _total_memory_bytes():
            raise LimitError(
                f"{name} has {status.st_size:,} bytes, more than this machine's memory of {_total_memory_bytes():,}."
            )
        intake = CheckpointFile(file, name, status.st_size)
        _check_head(intake)
        yield intake


def _not_a_file_error(mode: int, name: str) -> CheckpointError:
    if stat.S_ISDIR(mode):
        return CheckpointError(f"{name} is a folder; give the checkpoint file in it.")
    return CheckpointError(f"{name} is a pipe, socket or device; give a file.")


def _check_head(checkpoint_file: CheckpointFile) -> None:
    head, name = checkpoint_file.head, checkpoint_file.name
    if not head:
        raise CheckpointError(f"{name} is empty (0 bytes); download or save it again.")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise CheckpointError(f"{name} looks like a web page, not a checkpoint; download the file itself again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{name} is a git-LFS pointer of {checkpoint_file.size} bytes; run `git lfs pull` to get the checkpoint."
        )
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{name} is a tar archive (as torch 0.1 wrote); load it there and save net.state_dict() again.")
    for magic, kind in _OTHER_FILE_TYPES.items():
        if head.startswith(magic):
            raise CheckpointError(f"{name} is not a checkpoint: it is {kind}.")


def _total_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 1 << 40


def is_safetensors(checkpoint_file: CheckpointFile) -> bool:
    """By content; for a file called .safetensors also when only its header length is off, so that the error is about that."""
    length = int.from_bytes(checkpoint_file.head[:8], "little")
    by_content = checkpoint_file.head[8:9] == b"{" and 2 <= length <= checkpoint_file.size - 8
    other = checkpoint_file.head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    return by_content or (not other and checkpoint_file.name.lower().endswith(".safetensors"))
