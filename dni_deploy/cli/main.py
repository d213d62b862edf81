"""The entry point of the command line.

The help summary is printed here, without click (30 ms) or anything else, so that it comes back as fast as Python itself
starts. Everything else goes to `dispatch.py`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from dni_deploy._version import __version__
from dni_deploy.cli.commands import COMPLETE_VARIABLE, PROGRAM_NAME, format_help_summary


def main(args: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: The arguments; None: those of the process.

    Returns:
        The exit code.
    """
    args = sys.argv[1:] if args is None else args
    is_completion = COMPLETE_VARIABLE in os.environ  # then the shell calls, not a person
    if not is_completion and args in ([], ["-h"], ["--help"], ["--version"]) and sys.stdout is not None:
        with suppress(OSError):  # a full disk or a closed pipe, of which what follows tells
            print(f"{PROGRAM_NAME} {__version__}" if args == ["--version"] else format_help_summary(), flush=True)
            return 0
    from dni_deploy.cli.dispatch import run_command_line

    return run_command_line(args)


if __name__ == "__main__":
    sys.exit(main())
