"""Outputs: files that a verb is about to write, looked at before any work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dni_deploy.errors import UsageError, escape_name


def check_outputs(paths: Sequence[str | os.PathLike[str] | None], force: bool) -> tuple[str, ...]:
    """The paths that are not None. force: what exists may be replaced.

    Raises UsageError: two are one file, a folder that does not exist, or a file that does.
    """
    outputs = [os.fspath(path) for path in paths if path is not None]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise UsageError(f"Two outputs have one name: {', '.join(escape_name(path) for path in outputs)}. Nothing was written.")
    for path in outputs:
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f"The folder of {escape_name(path)} does not exist. Nothing was written.")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{escape_name(path)} exists; give --force to replace it. Nothing was written.")
    return tuple(outputs)
