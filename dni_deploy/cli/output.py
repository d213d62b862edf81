"""Surface: what a command prints, and where: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from dni_deploy.cli.commands import PROGRAM_NAME
from dni_deploy.errors import escape_name
from dni_deploy.utils.progress import OptionalProgress

OUTPUT_SCHEMA_VERSION = 1
"""Of every JSON object on stdout; it changes when a field is renamed, removed or given another meaning."""


@dataclass
class CommandOutput:
    """json: one JSON object on stdout and nothing else. quiet: no progress. debug: tracebacks."""

    json: bool = False
    quiet: bool = False
    debug: bool = False

    def print_result(self, command: str, fields: Mapping[str, Any]) -> bool:
        """Print the JSON object if that is what was asked for; tells whether it did."""
        if self.json:
            body = {
                "schema": OUTPUT_SCHEMA_VERSION,
                "command": command,
                **{key: value for key, value in fields.items() if key != "schema"},
            }
            click.echo(json.dumps(_replace_non_finite(body), indent=2, allow_nan=False, default=str))
        return self.json

    def print_error(self, kind: str, sentence: str, exit_code: int) -> int:
        """Print an error and return its exit code. Lines of the sentence stay lines; control characters are escaped."""
        safe = "\n".join(escape_name(line, 2000) for line in sentence.split("\n"))
        if self.json:
            error = {"kind": kind, "message": safe, "exit_code": exit_code}
            click.echo(json.dumps({"schema": OUTPUT_SCHEMA_VERSION, "error": error}), err=True)
        else:
            click.echo(f"{PROGRAM_NAME}: {safe if kind == 'Stopped' else 'error: ' + safe}", err=True)
        return exit_code

    @contextmanager
    def show_progress(self) -> Iterator[OptionalProgress]:
        """A progress bar on stderr where that is a terminal; None elsewhere."""
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, what: bar.update(task, completed=done, total=total, description=escape_name(what, 60))


def _replace_non_finite(value: object) -> object:
    """JSON has no infinity and no NaN (the PSNR of equal pictures is infinite): they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_summary(pairs: Mapping[str, object]) -> None:
    """Print one `name  value` line each; those whose value is None or empty are left out."""
    kept = {name: escape_name(value, 1000) for name, value in pairs.items() if value is not None and str(value)}
    width = max((len(name) for name in kept), default=0)
    for name, value in kept.items():
        click.echo(f"{name:<{width}}  {value}")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: rich's on a terminal; elsewhere plain columns, one line a row, never wrapped."""
    cells = [[escape_name(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[column]) for row in cells) for column in range(len(headers))]
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=None, pad_edge=False)
        for header, right in zip(headers, numeric, strict=True):
            drawn.add_column(header, justify="right" if right else "left", overflow="fold")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    for row in [list(headers), *cells]:
        line = (
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        click.echo("  ".join(line).rstrip())


def format_bytes(count: float) -> str:
    """A number of bytes for people: 3.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """A time for people: 0.31 ms, 42 ms, 3.1 s."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def format_count(number: int, noun: str) -> str:
    """A number and its noun: "1 picture", "2 pictures"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_number(cell: str) -> bool:
    if cell == "-":
        return True
    try:
        float(cell.rstrip("%x").removesuffix(" ms"))
    except ValueError:
        return False
    return True
