"""A checkpoint file, opened safely, and its type by content before anything reads it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from dni_deploy.checkpoints.other_formats import describe_folder, describe_other_format
from dni_deploy.checkpoints.read_budget import ReadBudget
from dni_deploy.errors import CheckpointError, LimitError, escape_name
from dni_deploy.utils.hardware import total_memory_bytes

UNKNOWN_MEMORY_BYTES = 1 << 40
"""Limit where the system does not tell its memory, as on Windows."""


class CheckpointFile:
    """An open regular file.

    `read` and `readline` return at most what the file has, so that a length in a damaged file allocates nothing.

    Attributes:
        file: The stream, at position 0; `open_checkpoint_file` closes it.
        name: Its name, safe to print.
        size: Bytes.
        head: Its first 1,024 bytes.
        budget: What reading it may cost.
    """

    def __init__(self, file: BinaryIO, name: str, size: int, budget: ReadBudget | None = None) -> None:
        """Reads the head of the file; one that is inside of another has the budget of that."""
        self.file, self.name, self.size = file, name, size
        self.budget = budget or ReadBudget(name)
        self.head = file.read(1024)
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        """Reads `count` bytes, or the rest, as far as the file has them."""
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        """Reads to the end of the line, at most 64 KiB."""
        return self.file.readline(1 << 16)  # no name in a pickle is longer

    def tell(self) -> int:
        """Returns the position in the file."""
        return self.file.tell()

    def sha256(self) -> str:
        """Computes the SHA-256 of the whole file, in hex; leaves the file at position 0."""
        digest = hashlib.sha256()
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            digest.update(chunk)
        self.file.seek(0)
        return digest.hexdigest()


@contextmanager
def open_checkpoint_file(path: str | os.PathLike[str], *, has_graph: bool = False) -> Iterator[CheckpointFile]:
    """Opens a regular file for reading, and never waits on a pipe.

    Args:
        path: The file.
        has_graph: Whether the file belongs to a network with its graph (.onnx, ncnn), which is else a known other format.

    Yields:
        The opened file.

    Raises:
        CheckpointError: It is missing, a folder, a pipe or device, unreadable, empty, a web page, a git-LFS pointer or of a
            known other format.
        LimitError: It is larger than this machine's memory.
    """
    name = escape_name(os.fspath(path), 100)
    try:
        mode = os.stat(path).st_mode  # before opening: opening a device can have effects, and opening a pipe can block
        descriptor = (
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)) if stat.S_ISREG(mode) else -1
        )
    except FileNotFoundError:
        raise CheckpointError(f"{name} does not exist.") from None
    except PermissionError:
        raise CheckpointError(f"{name} cannot be read: permission denied.") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a file name"
        raise CheckpointError(f"{name} cannot be opened: {reason}.") from None
    if descriptor < 0:
        raise _not_a_file_error(mode, name, path)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file_error(status.st_mode, name, path)
        memory = total_memory_bytes() or UNKNOWN_MEMORY_BYTES
        if status.st_size > memory:
            raise LimitError(f"{name} has {status.st_size:,} bytes, more than this machine's memory of {memory:,}.")
        try:
            checkpoint_file = CheckpointFile(file, name, status.st_size)
            check_head(checkpoint_file, has_graph=has_graph)
            yield checkpoint_file
        except OSError as error:
            if not is_read_failure(error):
                raise
            raise CheckpointError(f"{name} cannot be read ({error.strerror}).") from None


def is_read_failure(error: Exception) -> bool:
    """Whether an error says that the disk fails, not that the content of a file makes no sense, such as a negative position."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _not_a_file_error(mode: int, name: str, path: str | os.PathLike[str]) -> CheckpointError:
    if stat.S_ISDIR(mode):
        return CheckpointError(f"{name} is {describe_folder(path)}.")
    return CheckpointError(f"{name} is a pipe, socket or device; give a file.")


def check_head(checkpoint_file: CheckpointFile, *, has_graph: bool = False) -> None:
    """Raises CheckpointError where the first bytes say that a file is empty, a web page or, unless it has a graph, of a known
    other format."""
    head, name = checkpoint_file.head, checkpoint_file.name
    if not head:
        raise CheckpointError(f"{name} is empty (0 bytes); download or save it again.")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<?xml") and b"<net " in start:
        raise CheckpointError(f"{name} is a graph of OpenVINO; export the .onnx files or checkpoints that it was made from.")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise CheckpointError(f"{name} looks like a web page, not a checkpoint; download the file itself again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{name} is a git-LFS pointer of {checkpoint_file.size} bytes; run `git lfs pull` to get the checkpoint."
        )
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{name} is a tar archive (as torch 0.1 wrote); load it there and save net.state_dict() again.")
    kind = None if has_graph else describe_other_format(head)
    if kind is not None:
        raise CheckpointError(f"{name} is not a checkpoint: it is {kind}.")


def is_safetensors(checkpoint_file: CheckpointFile) -> bool:
    """Tells whether a file is safetensors by its content.

    A file called .safetensors is also one when only the length of its header is wrong, so that the error is about that.
    """
    length = int.from_bytes(checkpoint_file.head[:8], "little")
    if checkpoint_file.head[8:9] == b"{" and 2 <= length <= checkpoint_file.size - 8:
        return True
    is_torch = checkpoint_file.head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    return not is_torch and checkpoint_file.name.lower().endswith(".safetensors")
