"""Every error that dni-deploy raises on purpose, and the exit code of each kind.

    DniError                        exit
    ├── UsageError (ValueError)      2    the command or call is wrong: an option, an output that exists
    │   └── CoefficientsError        2    an alpha that is not one number per member, >= 0, summing to 1
    ├── InputError (ValueError)      3    a file is missing, damaged or not what it says
    │   ├── CheckpointError          3
    │   ├── BundleError              3
    │   └── ImageFileError           3
    ├── MismatchError (ValueError)   4    each input is sound, but they do not fit together
    ├── RefusedError                 5    reading it would run its code, or follow a path out of its folder
    ├── LimitError                   6    too large: memory, disk, size limits
    ├── UnavailableError             7    a package, device or driver that is needed and absent
    ├── PartialResultError           8    some of the inputs were done and some were not
    ├── BusyError                    9    something that only one process may use, such as a port, is in use
    └── EngineError                 11    an engine could not be built or refitted, or gives wrong results

Exit 1 is a bug in dni-deploy, 10 is `check --strict` where the members will not blend or nothing was run, 130 is Ctrl-C. A message
is one or two sentences: what, where, expected and got, what to do, and what is on disk now where that is in doubt.
"""

from __future__ import annotations

import unicodedata

VERDICT_EXIT_CODE = 10
"""Exit code of `check --strict` for "will not blend" and "not known": results that a script wants to stop at, not errors."""


class DniError(Exception):
    """Base of all errors raised on purpose; str() is a whole message for the user.

    Attributes:
        kind: The error's name in JSON. Fixed: scripts compare it, so it stays when the class is renamed. Every subclass sets
            its own.
        exit_code: The exit code of the command line. A subclass has its parent's unless it sets its own.
        report: What was done before the error, of the class that the operation returns; None where nothing is to report.
    """

    kind = "DniError"
    exit_code = 1
    report: object = None


class UsageError(DniError, ValueError):
    """A wrong command or call: an unknown option, options that exclude each other, an output that exists."""

    kind = "UsageError"
    exit_code = 2


class CoefficientsError(UsageError):
    """An alpha that cannot be used with this family."""

    kind = "CoefficientsError"


class InputError(DniError, ValueError):
    """A file that is missing, damaged or not what it says."""

    kind = "InputError"
    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint file that cannot be read as named tensors."""

    kind = "CheckpointError"


class BundleError(InputError):
    """A bundle or plan that is incomplete, damaged or of an unknown version."""

    kind = "BundleError"


class ImageFileError(InputError):
    """An image file that cannot be decoded, or that would lose content by being decoded."""

    kind = "ImageFileError"


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

    kind = "UnavailableError"
    exit_code = 7


EnvironmentProblem = UnavailableError
"""The old name, importable until the next release."""


class PartialResultError(DniError):
    """A job over several inputs that finished only some of them."""

    kind = "PartialResultError"
    exit_code = 8


class BusyError(DniError):
    """Something that only one process may use, such as a port, is in use."""

    kind = "BusyError"
    exit_code = 9


class EngineError(DniError):
    """An engine that could not be built or refitted, or that computes something else than the reference.

    No subclass of UnavailableError: a wrong result must never look like a missing package. `--engine auto` does not skip it.
    """

    kind = "EngineError"
    exit_code = 11


_UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def escape_name(name: object, limit: int = 200) -> str:
    """Makes a name from outside (file, tensor, key) safe to print on one line.

    Args:
        name: Anything; its str() is used.
        limit: Largest number of characters of the result.

    Returns:
        The name with control characters, bidirectional controls and line ends escaped, and cut at the limit with an ellipsis.
    """
    safe = "".join(
        character if unicodedata.category(character) not in _UNSAFE_CATEGORIES else character.encode("unicode_escape").decode()
        for character in str(name)[: limit + 1]
    )
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
