"""Reads, lists and writes objects by fsspec: whole or not at all, tried again where that may help, with errors in one sentence."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dni_deploy.errors import DniError, InputError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.address import read_scheme
from dni_deploy.utils.optional_packages import import_optional

log = logging.getLogger(__name__)

Result = TypeVar("Result")

DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""Scheme -> the package that opens it; fsspec knows more."""

WRITABLE_SCHEMES = (*DRIVERS, "memory")
"""Stores that take an object whole or not at all, so that nobody ever reads a part of one."""

RETRY_WAITS_S = (0.5, 1.0, 2.0)
"""Before each further attempt."""

_PERMANENT_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    ImportError,
    ValueError,
    TypeError,
    MemoryError,
)
_CONFIGURATION_ERROR = re.compile(r"Credential|Token|Auth|Profile|Permission|Import|Region")
"""Of the class of an error that no attempt mends, and that all objects of the store meet."""


class ObjectInfo(NamedTuple):
    """What a store says of an object or a folder.

    Attributes:
        name: Its name in its folder.
        is_folder: Whether other objects lie below it.
        size: Number of bytes.
        changed: When it was written, in seconds since 1970; 0.0 where the store does not tell.
    """

    name: str
    is_folder: bool
    size: int
    changed: float


def read_info(address: str) -> ObjectInfo | None:
    """Asks what is at an address; None where nothing is.

    Raises:
        UnavailableError: The store cannot be used: no driver, no credentials, no such bucket.
        InputError: It does not answer.
    """
    try:
        return _to_info(_attempt(address, lambda files, path: files.info(path)))
    except _MissingError:
        _check_bucket(address)
        return None


def list_folder(address: str) -> list[ObjectInfo]:
    """Lists a folder, by pages of the store and without a question for each object; an empty list where there is none.

    Raises:
        UnavailableError, InputError: As `read_info`.
    """
    try:
        entries = _attempt(address, lambda files, path: (path, files.ls(path, detail=True)))
    except _MissingError:
        _check_bucket(address)
        return []
    path, rows = entries[0].strip("/"), entries[1]
    infos = {}
    for row in rows:
        folder, _, name = row["name"].strip("/").rpartition("/")
        if folder == path and name:  # not the folder's own marker
            info = _to_info(row)
            if name not in infos or info.is_folder:
                infos[name] = info
    return list(infos.values())


def read_object(address: str) -> bytes:
    """Reads an object whole.

    Raises:
        InputError: It does not exist, or cannot be read.
        UnavailableError: As `read_info`.
    """
    data: bytes = _attempt(address, lambda files, path: files.cat_file(path))
    return data


def download_object(address: str, target: Path, size: int) -> None:
    """Copies an object into a file.

    Args:
        address: Of the object.
        target: The file, which is replaced.
        size: Number of bytes of the object, as the store says.

    Raises:
        InputError, UnavailableError: As `read_object`.
        OSError: The file cannot be written.
    """

    def copy(files: Any, path: str) -> None:
        files.get_file(path, str(target))
        if target.stat().st_size != size:
            raise OSError(f"{target.stat().st_size} of {size} bytes came")

    _attempt(address, copy)


def write_object(address: str, data: bytes | Path, *, force: bool = False) -> None:
    """Writes an object whole: readers see all of it or none of it.

    Args:
        address: Of the object.
        data: Its content, or the file that holds it.
        force: Whether an object that exists is replaced.

    Raises:
        UsageError: It exists, or the store does not take an object whole.
        InputError: It cannot be written.
        UnavailableError: As `read_info`.
    """
    check_writable(address)
    mode = "overwrite" if force else "create"
    attempts = 0

    def put(files: Any, path: str) -> None:
        nonlocal attempts
        attempts += 1
        try:
            if isinstance(data, Path):
                files.put_file(str(data), path, mode=mode)
            else:
                files.pipe_file(path, data, mode=mode)
        except FileExistsError:
            # An attempt whose answer was lost may have written it.
            if attempts == 1 or not _is_written(files, path, data):
                raise

    _attempt(address, put)


def _is_written(files: Any, path: str, data: bytes | Path) -> bool:
    """Whether an object is what this process was writing; of a file, which may be large, the size has to do."""
    if isinstance(data, Path):
        return bool(files.size(path) == data.stat().st_size)
    return bool(files.cat_file(path) == data)


def check_writable(address: str) -> None:
    """Raises UsageError where a store may show an object before it is whole."""
    scheme = read_scheme(address)
    if scheme not in WRITABLE_SCHEMES:
        raise UsageError(
            f"{escape_name(address)}: outputs go to a path, s3:// or gs://, where an object appears whole or not at all; "
            f"{escape_name(scheme)}:// does not promise that."
        )


class _MissingError(InputError):
    """Nothing is at the address."""

    kind = "MissingObjectError"


def _attempt(address: str, function: Callable[[Any, str], Result]) -> Result:
    """Calls a function with the open store and the path in it; again after what may pass."""
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            files = _open_store(read_scheme(address))
            return function(files, files._strip_protocol(address))
        except DniError:
            raise
        except Exception as error:
            if wait_s is None or isinstance(error, _PERMANENT_ERRORS) or _is_configuration_error(error):
                raise _explain(error, address) from error
            log.info("%s: tried again in %.1f s after %s", escape_name(address), wait_s, _format_error(error))
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _open_store(scheme: str) -> Any:
    """Opens a store with what its driver finds by itself: variables, files, the machine's role."""
    fsspec = import_optional("fsspec")
    if scheme in DRIVERS:
        import_optional(DRIVERS[scheme])
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except (ValueError, ImportError, TypeError, OSError) as error:
        raise UnavailableError(f"{escape_name(scheme)}:// cannot be opened here ({_format_error(error)}).") from error


def _check_bucket(address: str) -> None:
    """Raises UnavailableError where nothing is at an address because there is no such bucket."""
    scheme = read_scheme(address)
    if scheme not in DRIVERS:
        return
    bucket = "/".join(address.split("/", 3)[:3])
    try:
        _attempt(bucket, lambda files, path: files.ls(path))
    except _MissingError as error:
        raise _make_bucket_error(address, error.__cause__ or error) from error


def _make_bucket_error(address: str, error: BaseException) -> UnavailableError:
    return UnavailableError(f"{escape_name(address)}: there is no such bucket ({_format_error(error)}).")


def _to_info(row: dict[str, Any]) -> ObjectInfo:
    changed: Any = row.get("LastModified") or row.get("mtime") or row.get("created")
    return ObjectInfo(
        row["name"].strip("/").rpartition("/")[2],
        row["type"] == "directory",
        int(row.get("size") or 0),
        changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0.0),
    )


def _explain(error: Exception, address: str) -> DniError:
    name = escape_name(address)
    if isinstance(error, FileNotFoundError):
        if "bucket does not exist" in str(error).lower():
            return _make_bucket_error(address, error)
        return _MissingError(f"{name} does not exist.")
    if isinstance(error, FileExistsError):
        return UsageError(f"{name} exists; give --force to replace it.")
    if _is_configuration_error(error):
        return UnavailableError(f"{name} cannot be reached ({_format_error(error)}).")
    return InputError(f"{name} cannot be read or written ({_format_error(error)}).")


def _is_configuration_error(error: BaseException) -> bool:
    is_forbidden = getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden")  # as gcsfs says it
    return is_forbidden or any(_CONFIGURATION_ERROR.search(kind.__name__) for kind in type(error).__mro__)


def _format_error(error: BaseException) -> str:
    """The library's own words."""
    return f"{type(error).__name__}: {escape_name(str(error).rstrip('.'), 300)}"
