"""Every error that dni-deploy raises on purpose, and the exit code of each kind.

    DniError                        exit
    ├── UsageError (ValueError)      2    the command or call is off: an option, an output that exists
    │   └── CoefficientsError        2    an alpha that is not one number per member, >= 0, summing to 1
    ├── InputError (ValueError)      3    a file is missing, damaged or not what it says
    │   ├── CheckpointError          3
    │   ├── BundleError              3
    │   └── ImageFileError             3
    ├── MismatchError (ValueError)   4    each input is sound, but they do not fit together
    ├── RefusedError                 5    reading it would run its code, or follow a path out of its folder
    ├── LimitError                   6    too large: memory, disk, size limits
    ├── UnavailableError           7    something is not installed, or a device or driver is absent
    │   └── EngineError              7    an engine could not be built, refitted or verified
    ├── PartialResultError                8    some of the inputs were done and some were not
    └── BusyError                    9    what only one may have, such as a port, is taken

Exit 1 is a bug of ours, 10 is `check --strict` where the members will not blend, 130 is Ctrl-C. A message is one
sentence or two: what, where, expected and got, what to do, and what is on disk now where that is in doubt.
"""

from __future__ import annotations

import unicodedata

VERDICT_EXIT_CODE = 10
"""Of `check --strict` for "will not blend": a result that a script wants to stop at, and no error."""


class DniError(Exception):
    """Base of all errors raised on purpose; str() is a whole message for the user.

    Attributes:
        kind: The error's name in JSON. Fixed: scripts compare it, so it stays when the class is renamed. Every subclass sets its own.
        exit_code: The exit code of the command line. A subclass has its parent's unless it sets its own.
    """

    kind = "DniError"
    exit_code = 1


class UsageError(DniError, ValueError):
    kind = "UsageError"
    exit_code = 2


class CoefficientsError(UsageError):
    """An alpha that cannot be used with this family."""

    kind = "CoefficientsError"


class InputError(DniError, ValueError):
    kind = "InputError"
    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint file that cannot be read as tensors under names."""

    kind = "CheckpointError"


class BundleError(InputError):
    """A bundle or plan that is incomplete, damaged or of an unknown version."""

    kind = "BundleError"


class ImageFileError(InputError):
    """A picture file that cannot be decoded, or that would lose content by being decoded."""

    kind = "PictureError"


class MismatchError(DniError, ValueError):
    """Sound inputs that do not fit together, such as members of different architectures."""

    kind = "MismatchError"
    exit_code = 4


class RefusedError(DniError):
    """A file that is refused unread, because reading it could run code or leave its folder."""

    kind = "RefusedError"
    exit_code = 5


class LimitError(DniError):
    """A size beyond what this machine or a stated limit allows."""

    kind = "LimitError"
    exit_code = 6


class UnavailableError(DniError):
    """A package, device or driver that is needed and absent."""

    kind = "EnvironmentProblem"
    exit_code = 7


class EngineError(UnavailableError):
    """An engine that could not be built, refitted or verified."""

    kind = "EngineError"


class PartialResultError(DniError):
    """A job over several inputs that finished only some of them."""

    kind = "PartialResult"
    exit_code = 8


class BusyError(DniError):
    """Something that only one may have, such as a port, is taken."""

    kind = "BusyError"
    exit_code = 9


_UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def escape_name(name: object, limit: int = 200) -> str:
    """A name from outside (file, tensor, key) made safe for one line: control and bidi characters and line ends escaped."""
    safe = "".join(
        character if unicodedata.category(character) not in _UNSAFE_CATEGORIES else character.encode("unicode_escape").decode()
        for character in str(name)[: limit + 1]
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
