"""What a command prints, and where: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

from dni_deploy.cli.commands import PROGRAM_NAME
from dni_deploy.errors import escape_name
from dni_deploy.utils.native_calls import SHOW_CURSOR
from dni_deploy.utils.progress import OptionalProgress

OUTPUT_SCHEMA_VERSION = 2
"""Version of every JSON object on stdout; it changes when a field is renamed, removed or given another meaning."""


LINE_INTERVAL_S = 5.0
"""Seconds between two lines of progress, where there is no terminal."""


@dataclass
class CommandOutput:
    """Where and how a command prints.

    Attributes:
        json: One JSON object on stdout and nothing else.
        quiet: No progress.
        debug: Tracebacks of errors.
        notes: What the command line was read as, for the "notes" of the JSON object.
        has_bar: A bar was begun, which hides the cursor.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False
    notes: list[str] = field(default_factory=list)
    has_bar: bool = False

    def print_note(self, sentence: str) -> None:
        """Prints a note on the command line, on stderr; with --json it is part of the result.

        Args:
            sentence: The note.
        """
        self.notes.append(sentence)
        if not self.json:
            click.echo(f"note: {escape_name(sentence, 1000)}", err=True)

    def print_result(
        self, command: str, fields: Mapping[str, Any], *, on_one_line: bool = False, to_stderr: bool = False
    ) -> bool:
        """Prints the result as JSON, where the command line has --json.

        Args:
            command: The command's name.
            fields: The result.
            on_one_line: Whether the object is one line, for a command that prints it while it goes on.
            to_stderr: Whether it goes to stderr, where stdout is for something else.

        Returns:
            Whether it was printed, so that nothing else is to be.
        """
        if self.json:
            body = {
                "schema": OUTPUT_SCHEMA_VERSION,
                "command": command,
                **{key: value for key, value in fields.items() if key != "schema"},
            }
            if self.notes:
                body["notes"] = [*self.notes, *body.get("notes", ())]
            indent = None if on_one_line else 2
            click.echo(json.dumps(_replace_non_finite(body), indent=indent, allow_nan=False, default=str), err=to_stderr)
        return self.json

    def print_event(self, name: str, fields: Mapping[str, Any], sentence: str) -> None:
        """Prints on stderr what happened while a command runs: a sentence above the progress, or with --json one object a line.

        Args:
            name: What it is, in JSON.
            fields: What is known of it, for JSON.
            sentence: The same for people.
        """
        line = f"{PROGRAM_NAME}: {escape_name(sentence, 2000)}"
        if self.json:
            line = json.dumps({"schema": OUTPUT_SCHEMA_VERSION, name: fields})
        if sys.stderr is not None:
            print(line, file=sys.stderr)  # click.echo would write past what the progress bar puts in the place of stderr

    def print_error(self, kind: str, sentence: str, exit_code: int) -> int:
        """Prints an error. Lines of the sentence stay lines; control characters are escaped.

        Args:
            kind: The error's fixed name.
            sentence: What is wrong.
            exit_code: The error's exit code.

        Returns:
            The exit code.
        """
        safe = "\n".join(escape_name(line, 2000) for line in sentence.split("\n"))
        if self.json:
            error = {"kind": kind, "message": safe, "exit_code": exit_code}
            click.echo(json.dumps({"schema": OUTPUT_SCHEMA_VERSION, "error": error}), err=True)
        else:
            click.echo(f"{PROGRAM_NAME}: {safe if kind == 'Stopped' else 'error: ' + safe}", err=True)
        return exit_code

    def show_cursor(self) -> None:
        """Shows the cursor again, which a bar leaves hidden where a signal comes while it begins or ends."""
        if self.has_bar and sys.stderr is not None and sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
            sys.stderr.flush()

    @contextmanager
    def show_progress(self) -> Iterator[OptionalProgress]:
        """Shows progress on stderr: a bar on a terminal, else a line every LINE_INTERVAL_S; with --json one object a line.

        Yields:
            The callback that shows it; None where nothing is shown.
        """
        if self.quiet or sys.stderr is None:
            yield None
            return
        if self.json or not sys.stderr.isatty():
            yield _LineProgress(self.json)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.has_bar = True
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda done, total, what: bar.update(task, completed=done, total=total, description=escape_name(what, 60))


class _LineProgress:
    """Prints progress as lines, the first one after LINE_INTERVAL_S: what is over before that has none."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._printed_at = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self._printed_at < LINE_INTERVAL_S:
            return
        self._printed_at = now
        if self._as_json:
            line = json.dumps({"schema": OUTPUT_SCHEMA_VERSION, "progress": {"done": done, "total": total, "what": what}})
        else:
            line = f"{PROGRAM_NAME}: {done}{f' of {total}' if total else ''}, {escape_name(what, 200)}"
        click.echo(line, err=True)


def _replace_non_finite(value: object) -> object:
    """Replaces infinities and NaN by None: JSON has neither, and the PSNR of equal images is infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_summary(pairs: Mapping[str, object]) -> None:
    """Prints one `name  value` line each; those whose value is None or empty are left out."""
    kept = {name: escape_name(value, 1000) for name, value in pairs.items() if value is not None and str(value)}
    width = max((len(name) for name in kept), default=0)
    for name, value in kept.items():
        click.echo(f"{name:<{width}}  {value}")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, numbers to the right: on a terminal as wide as that, elsewhere one line a row, never wrapped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[escape_name(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False)
    for column, header in enumerate(headers):
        is_numeric = bool(cells) and all(_is_number(row[column]) for row in cells)
        table.add_column(Text(header), justify="right" if is_numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    if sys.stdout is not None and sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=sum(max(map(len, column)) + 2 for column in zip(headers, *cells, strict=True)) * 2, no_color=True)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def format_bytes(count: float) -> str:
    """Formats a number of bytes: 3.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """Formats a time: 0.31 ms, 42 ms, 3.1 s."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _is_number(cell: str) -> bool:
    """Whether a cell is a number with or without a unit, or stands for a missing one."""
    if cell == "-":
        return True
    try:
        float(cell.rstrip("%x").removesuffix(" ms"))
    except ValueError:
        return False
    return True
