"""What -v shows: the log of dni-deploy's own packages on stderr, and of no other library."""

from __future__ import annotations

import logging
import sys

from dni_deploy.errors import escape_name

LOGGED_PACKAGES = ("dni_deploy", "engines", "exporters")


class _StderrHandler(logging.Handler):
    """Writes each message to the stderr of that moment: seconds since the program began, the module, one or more lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one message; control characters are escaped."""
        message = "\n".join(escape_name(line, 2000) for line in self.format(record).split("\n"))
        if sys.stderr is not None:
            print(f"{record.relativeCreated / 1e3:7.2f} s  {record.name}: {message}", file=sys.stderr)


_STDERR_HANDLER = _StderrHandler()


def show_logs(verbosity: int) -> None:
    """Shows the log from now on.

    Args:
        verbosity: 0: leave it as it is. 1: what was chosen and how long it took. 2 and more: every step. The count before and
            the count after the command name add up.
    """
    for name in LOGGED_PACKAGES:
        logger = logging.getLogger(name)
        if verbosity:
            logger.setLevel(logging.DEBUG if verbosity > 1 or logger.level == logging.INFO else logging.INFO)
            logger.addHandler(_STDERR_HANDLER)


def hide_logs() -> None:
    """Undoes `show_logs`, for whoever runs several command lines in one process."""
    for name in LOGGED_PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).removeHandler(_STDERR_HANDLER)
