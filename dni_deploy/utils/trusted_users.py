"""Accounts whose programs (plans) this account believes, because its owner says so: by the owner of a file and by a key of theirs.

The owner alone would not do: what an account has unpacked from somebody's archive belongs to it, too. A digest under its key
says that dni-deploy has written the file in its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.hardware import config_folder

KEYS_FOLDER_NAME = "trusted-keys"


class TrustedUser(NamedTuple):
    """An account that is trusted.

    Attributes:
        name: As it was given, a name or a number.
        id: Its number.
    """

    name: str
    id: int

    @property
    def key_path(self) -> Path | None:
        """Where this account keeps a copy of the other one's key; None where it has no configuration folder."""
        folder = config_folder()
        return None if folder is None else folder / KEYS_FOLDER_NAME / f"{self.name}.key"


def find_trusted_users(names: Sequence[str]) -> tuple[TrustedUser, ...]:
    """Finds accounts by name or number.

    Raises:
        UsageError: There is no such account, or files have no owners here.
    """
    return tuple(TrustedUser(name, _find_user_id(name)) for name in names)


def _find_user_id(name: str) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        import pwd
    except ImportError:
        raise UsageError("Files have no owners by number on this system, so no other account can be trusted by it.") from None
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise UsageError(f"There is no user {escape_name(name, 60)} here; a number is taken as well.") from None
