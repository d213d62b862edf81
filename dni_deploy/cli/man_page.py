"""The manual page, made of the same texts as the help of the commands."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from dni_deploy import errors
from dni_deploy._version import __version__
from dni_deploy.cli.commands import COMMANDS, GLOBAL_OPTIONS, PROGRAM_NAME

SUMMARY = "blend the checkpoints of a network family in a running engine"

LINE_WIDTH = 72
"""Characters of a line of the source, without its escapes."""

ENVIRONMENT = {
    "DNI_COMMAND_OPTION": "The value of an option that the command line does not give, such as DNI_RUN_THREADS for run --threads.",
    "DNI_CACHE": "Folder in which export keeps what it made of checkpoints before.",
}


def format_man_page(group: click.Group, ctx: click.Context) -> str:
    """Formats the manual page of all commands.

    Args:
        group: The group of all commands.
        ctx: A context of the group.

    Returns:
        The page in the format of man(7), with a line end at its end.
    """
    lines = [
        f'.TH "{_escape(PROGRAM_NAME.upper())}" "1" "" "{_escape(PROGRAM_NAME)} {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escape(PROGRAM_NAME)} \\- {SUMMARY}",
        ".SH SYNOPSIS",
        f".B {_escape(PROGRAM_NAME)}",
        "[OPTIONS] COMMAND [ARGS]...",
        ".SH OPTIONS",
    ]
    for names, text in GLOBAL_OPTIONS.items():
        lines += [".TP", f"\\fB{_escape(names)}\\fR", _fill(text)]
    lines.append(".SH COMMANDS")
    for name in COMMANDS:
        command = group.get_command(ctx, name)
        if command is not None:
            lines += _format_command(
                name, command, click.Context(command, parent=ctx, info_name=name, **command.context_settings)
            )
    lines.append(".SH EXIT STATUS")
    for code, text in sorted(_list_exit_codes()):
        lines += [".TP", f"\\fB{code}\\fR", _fill(text)]
    lines.append(".SH ENVIRONMENT")
    for variable, text in ENVIRONMENT.items():
        lines += [".TP", f"\\fB{_escape(variable)}\\fR", _fill(text)]
    return "\n".join(lines) + "\n"


def _format_command(name: str, command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f".SS {_escape(name)}"
    yield f"\\fB{_escape(f'{PROGRAM_NAME} {name}')}\\fR {_escape(' '.join(command.collect_usage_pieces(ctx)))}"
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        yield ".PP"
        yield _fill(paragraph)
    for parameter in command.params:
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield from (".TP", f"\\fB{_escape(record[0])}\\fR", _fill(record[1]))
    examples = getattr(command, "examples", "").strip().splitlines()
    if examples:
        yield from (".PP", "Examples:", ".PP", ".nf", ".RS", *(_escape(line.strip()) for line in examples), ".RE", ".fi")


def _list_exit_codes() -> Iterator[tuple[int, str]]:
    """Yields each exit code of the errors with what it stands for."""
    yield 0, "Success."
    yield errors.DniError.exit_code, "A bug in dni-deploy."
    yield errors.VERDICT_EXIT_CODE, "check --strict: the members will not blend, or it is not known."
    yield 130, "Stopped by Ctrl-C."
    kinds: dict[int, type[errors.DniError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.DniError) and kind is not errors.DniError:
            kinds.setdefault(kind.exit_code, kind)
    for code, kind in kinds.items():
        yield code, (kind.__doc__ or "").partition("\n")[0]


def _fill(text: str) -> str:
    """Breaks a paragraph into short lines."""
    return "\n".join(map(_escape, textwrap.wrap(text, LINE_WIDTH, break_on_hyphens=False, break_long_words=False)))


def _escape(text: str) -> str:
    """Escapes what means something to roff: backslashes, hyphens, and a dot or an apostrophe at the start of a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
