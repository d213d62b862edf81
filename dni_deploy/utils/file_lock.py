"""A lock on an open file, which the system frees when its process ends, however that ends."""

from __future__ import annotations

import errno
import sys

_HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, shared: bool) -> None:
        if not shared:  # Windows has no shared lock without its own handles
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, shared: bool) -> None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file, or a folder where the system opens folders, until its descriptor is closed.

    Args:
        descriptor: Of the file; on Windows it must be writable, and its first byte is what is locked.
        shared: Whether others may hold it, too, if they share it. On Windows there is no lock then.

    Returns:
        Whether no other process holds the lock against this one. Also True on a file system without locks, where there is none to hold.
    """
    try:
        _lock(descriptor, shared)
    except OSError as error:
        return error.errno not in _HELD_ELSEWHERE
    return True
