"""Bundles at addresses: copied once into the cache of a machine, by digest, however many processes want one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, StoredFile
from dni_deploy.errors import BundleError, InputError, LimitError, RefusedError, escape_name
from dni_deploy.storage.cache import make_cache_folder
from dni_deploy.storage.object_store import read_info, read_object
from dni_deploy.utils.address import join_location
from dni_deploy.utils.atomic_write import write_bytes_atomically, write_folder_atomically
from dni_deploy.utils.file_lock import try_lock

CACHE_NAME = "bundles"
LOCK_POLL_S = 0.1


def fetch_bundle(address: str, *, anew: bool = False) -> Path:
    """Copies a bundle into the cache, unless one of its digest is there.

    Only the manifest is read each time: it says which bundle is at the address now. One process of a machine copies; those
    that want the same bundle meanwhile wait for it.

    Args:
        address: Of the bundle's folder.
        anew: Replace the copy that is there.

    Returns:
        The copy. Whoever opens it checks its files, as those of every bundle.

    Raises:
        BundleError: There is no bundle, or a file of it is missing, cut or changed.
        LimitError: The manifest is larger than its limit, or there is no room.
        UnavailableError: The store cannot be used, or there is no cache folder.
        InputError: The store does not answer.
    """
    manifest_address = join_location(address, MANIFEST_FILE_NAME)
    info = read_info(manifest_address)
    if info is None:
        raise BundleError(f"{escape_name(address)} has no {MANIFEST_FILE_NAME}: it is not a bundle.")
    if info.size > MAX_MANIFEST_BYTES:
        raise LimitError(f"{escape_name(manifest_address)} is {info.size} bytes; more than {MAX_MANIFEST_BYTES} are not read.")
    data = read_object(manifest_address)
    try:
        manifest = Manifest.from_bytes(data)
    except (BundleError, RefusedError) as error:
        raise type(error)(f"{escape_name(manifest_address)}: {error}") from None
    folder = make_cache_folder(CACHE_NAME) / sha256(data).hexdigest()
    if folder.is_dir() and not anew:
        return folder
    with _hold_lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with write_folder_atomically(folder) as temporary:
                _copy_files(address, manifest, data, temporary)
        elif anew:
            _copy_files(address, manifest, data, folder)
    return folder


def _copy_files(address: str, manifest: Manifest, manifest_data: bytes, folder: Path) -> None:
    for stored in manifest.files:
        write_bytes_atomically(folder / stored.file, _read_file(address, stored), force=True)
    write_bytes_atomically(folder / MANIFEST_FILE_NAME, manifest_data, force=True)


def _read_file(address: str, stored: StoredFile) -> bytes:
    file_address = join_location(address, stored.file)
    name = escape_name(file_address)
    info = read_info(file_address)
    if info is None:
        raise BundleError(f"{escape_name(address)} has no {escape_name(stored.file)}: the bundle is incomplete; copy it again.")
    data = read_object(file_address) if info.size == stored.size else b""
    if len(data) != stored.size:
        size = info.size if info.size != stored.size else len(data)
        raise BundleError(f"{name} has {size} bytes, the manifest says {stored.size}: it was cut or changed; copy it again.")
    if sha256(data).hexdigest() != stored.sha256:
        raise BundleError(f"{name} has another SHA-256 than the manifest says: it was changed or damaged; copy it again.")
    return data


@contextmanager
def _hold_lock(path: Path) -> Iterator[None]:
    """Waits until no other process of this machine copies this bundle."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise InputError(
            f"{escape_name(path)} cannot be written ({error.strerror}); set DNI_CACHE to another folder."
        ) from error
    try:
        while not try_lock(descriptor):
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)
