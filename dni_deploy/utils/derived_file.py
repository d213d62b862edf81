"""Files that this program makes of others to be faster the next time (plans, caches), believed only where this account wrote them.

A checksum beside its data proves that a file is whole, not who wrote it. So a derived file begins with a digest under a key that
only this account has. What is absent, damaged or somebody else's is passed over, and made anew.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from dni_deploy.errors import DniError, escape_name
from dni_deploy.utils.hardware import config_folder
from dni_deploy.utils.private_file import open_private_file, write_private_file
from dni_deploy.utils.trusted_users import TrustedUser

log = logging.getLogger(__name__)

KEY_FILE_NAME = "derived-files.key"
KEY_BYTES = 32
DIGEST_BYTES = 32
SEAL_MAGIC = b"dni-deploy derived file 1\n"
SEAL_BYTES = len(SEAL_MAGIC) + DIGEST_BYTES
"""Length of what stands before the content: a line, and the digest of the content."""


def compute_keyed_digest(*parts: bytes) -> bytes:
    """Computes the HMAC-SHA256 of bytes under this account's key, DIGEST_BYTES long.

    Where the configuration folder cannot be written, the key is one of this process alone: what it writes it also reads, and
    nobody else does.
    """
    folder = config_folder()
    return _compute_digest(_load_key(None if folder is None else folder / KEY_FILE_NAME), parts)


def is_keyed_digest(digest: bytes, *parts: bytes, owner: int = -1, users: Sequence[TrustedUser] = ()) -> bool:
    """Tells whether a digest is one under this account's key, or under that of a trusted account that owns the file.

    Args:
        digest: The digest.
        *parts: The bytes.
        owner: Number of the account that owns the file that they are from.
        users: The accounts that are trusted. Their keys are read from the files that `TrustedUser.key_path` names.
    """
    if hmac.compare_digest(digest, compute_keyed_digest(*parts)):
        return True
    keys = [_read_trusted_key(user) for user in users if user.id == owner]
    return any(key is not None and hmac.compare_digest(digest, _compute_digest(key, parts)) for key in keys)


def _compute_digest(key: bytes, parts: Iterable[bytes]) -> bytes:
    digest = hmac.new(key, digestmod="sha256")
    for part in parts:
        digest.update(part)
    return digest.digest()


def _read_trusted_key(user: TrustedUser) -> bytes | None:
    path = user.key_path
    try:
        if path is not None:
            with open_private_file(path, "a key") as file:
                key = file.read(KEY_BYTES + 1)
            if len(key) == KEY_BYTES:
                return key
        log.warning("%s is no key and is passed over.", escape_name(path))
    except FileNotFoundError:
        log.warning("The key of user %s is not at %s; see docs/security.md.", escape_name(user.name), escape_name(path))
    except (OSError, DniError) as error:
        log.warning("The key of user %s is passed over: %s", escape_name(user.name), escape_name(error))
    return None


def write_derived_file(path: Path, content: bytes, *, force: bool = False) -> None:
    """Writes a derived file atomically, readable and writable by its owner alone.

    Args:
        path: The file, whose folder exists.
        content: Its content.
        force: Whether a file that exists is replaced.

    Raises:
        UsageError: As `write_file_atomically`, like its other errors.
    """
    write_private_file(path, (SEAL_MAGIC, compute_keyed_digest(content), content), force=force)


def read_derived_file(path: Path, kind: str) -> bytes | None:
    """Reads a derived file. Never follows a link, waits on a pipe, or reads more than the file has when it is opened.

    Args:
        path: The file.
        kind: What it is, for messages, such as "a plan".

    Returns:
        The content; None where it is absent, or passed over, which the log tells.
    """
    try:
        with open_private_file(path, kind) as file:
            data = file.read(os.fstat(file.fileno()).st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        log.warning("%s is passed over: it cannot be read (%s).", escape_name(path), error.strerror)
        return None
    except DniError as error:
        log.warning("%s", str(error))  # the exception itself would keep its frames
        return None
    content = data[SEAL_BYTES:]
    if data[:SEAL_BYTES] != SEAL_MAGIC + compute_keyed_digest(content):
        log.warning("%s is passed over: it is damaged, or was not written by this account.", escape_name(path))
        return None
    return content


@cache
def _load_key(path: Path | None) -> bytes:
    """Reads the account's key, or makes it."""
    if path is not None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                try:
                    write_private_file(path, (secrets.token_bytes(KEY_BYTES),))
                except DniError:
                    if not path.exists():  # else another process was first
                        raise
            with open_private_file(path, "a key") as file:
                key = file.read(KEY_BYTES + 1)
            if len(key) == KEY_BYTES:
                return key
            log.warning("%s is no key and is passed over; remove it.", escape_name(path))
        except (OSError, DniError) as error:
            log.info("plans and caches are kept for this process alone: %s", escape_name(error))
    return secrets.token_bytes(KEY_BYTES)
