"""A file of a bundle, read without following links and checked against the manifest."""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256
from pathlib import Path

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.manifest import MAX_MANIFEST_BYTES, StoredFile
from dni_deploy.errors import BundleError, RefusedError, escape_name

_READ_CHUNK_BYTES = 1 << 20


def read_verified(folder: Path, stored: StoredFile | None, *, keep: bool = True) -> bytes:
    """Reads one file of a bundle and checks it. Never follows a link and never waits on a pipe.

    Args:
        folder: The bundle.
        stored: The file as the manifest describes it; None reads the manifest itself, which is not checked.
        keep: Whether the content is returned; else it is only checked.

    Returns:
        The content, or b"" without `keep`.

    Raises:
        BundleError: The file is missing or unreadable, or differs from the manifest.
        RefusedError: It is a link or not a regular file.
    """
    path = folder / (MANIFEST_FILE_NAME if stored is None else stored.file)
    # Without O_NOFOLLOW (Windows) the file may change between this check and the open; the SHA-256 still holds.
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise RefusedError(f"{escape_name(path)} is a link; a bundle holds plain files only, and links are not followed.")
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        what = (
            "it is not a bundle"
            if stored is None
            else "the bundle is incomplete, or was replaced since it was opened; open it, copy it or export it again"
        )
        raise BundleError(f"{escape_name(folder)} has no {escape_name(path.name)}: {what}.") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) or os.path.islink(path) or (stored and path.is_dir()):
            raise RefusedError(f"{escape_name(path)} is a link or no plain file; a bundle holds plain files only.") from None
        raise BundleError(f"{escape_name(path)} cannot be read ({error.strerror}).") from None
    try:
        return _read_checked(descriptor, path, stored, keep)
    except OSError as error:
        raise BundleError(f"{escape_name(path)} cannot be read ({error.strerror}).") from None
    finally:
        os.close(descriptor)


def _read_checked(descriptor: int, path: Path, stored: StoredFile | None, keep: bool) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{escape_name(path)} is not a plain file; a bundle holds plain files only.")
    if stored is None:
        limit = MAX_MANIFEST_BYTES + 1  # one more than is read, so that from_bytes can say so
    elif status.st_size != stored.size:
        raise BundleError(
            f"{escape_name(path)} has {status.st_size} bytes, the manifest says {stored.size}: it was cut or changed."
        )
    else:
        limit = stored.size
    digest, chunks, remaining = sha256(), [], limit
    # What is kept is read at once where the system does: b"".join returns a single chunk as it is, without a copy.
    chunk_size = remaining if keep else _READ_CHUNK_BYTES
    while remaining and (chunk := os.read(descriptor, min(remaining, chunk_size))):
        digest.update(chunk)
        remaining -= len(chunk)
        if keep:
            chunks.append(chunk)
    if stored is not None and digest.hexdigest() != stored.sha256:
        raise BundleError(
            f"{escape_name(path)} has the SHA-256 {digest.hexdigest()[:16]}…, the manifest says {stored.sha256[:16]}…: "
            "it was changed or damaged; copy or export it again."
        )
    return b"".join(chunks)
