"""The group: the table of commands, the front page and main().

The front page is answered here, without click (30 ms) or anything else, so that the first thing a person types
comes back as fast as Python itself starts. Everything else goes to `invoke.py`.
"""

from __future__ import annotations

import os
import sys

from dni_deploy._version import __version__
from dni_deploy.cli.commands import COMPLETE_VARIABLE, PROGRAM_NAME, format_help_summary


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. `args` defaults to those of the process."""
    args = sys.argv[1:] if args is None else args
    asked = COMPLETE_VARIABLE not in os.environ  # else it is the shell that asks, for a completion
    if asked and args in ([], ["-h"], ["--help"], ["--version"]) and sys.stdout is not None:
        print(f"{PROGRAM_NAME} {__version__}" if args == ["--version"] else format_help_summary())
        return 0
    from dni_deploy.cli.dispatch import run_command_line

    return run_command_line(args)


if __name__ == "__main__":
    sys.exit(main())
