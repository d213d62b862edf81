"""Command lines that cannot be parsed: what is wrong, and what was probably meant. The same with every version of click."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath

import click

from dni_deploy.bundle.folder import CHECKPOINT_SUFFIXES
from dni_deploy.cli.commands import COMMANDS, PROGRAM_NAME
from dni_deploy.cli.other_programs import answer_other_option, find_command_by_word
from dni_deploy.errors import escape_name
from dni_deploy.utils.near_names import match_case, suggest_name

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".mxf", ".y4m"})
FIRST_COMMAND_LINE = f"{PROGRAM_NAME} run BUNDLE IMAGE -o OUTPUT --alpha ALPHA"


class ExplainedCommand(click.Command):
    """A command whose errors of usage say what was probably meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments."""
        given = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise explain_usage_error(error, self, ctx, given) from None


def explain_unknown_command(word: str) -> str:
    """Explains a first word that is no command.

    Args:
        word: The word.

    Returns:
        A sentence.
    """
    name = escape_name(word)
    suffix = PurePath(word).suffix.lower()
    if suffix in CHECKPOINT_SUFFIXES:
        return f"A command comes first: {PROGRAM_NAME} export A={name} B=OTHER{suffix} -o NAME.dni."
    if suffix == ".dni":
        return f"A command comes first: {PROGRAM_NAME} run {name} IMAGE -o OUTPUT --alpha ALPHA, or {PROGRAM_NAME} serve {name} IMAGE."
    if suffix in VIDEO_SUFFIXES:
        return f"A command comes first: {PROGRAM_NAME} video BUNDLE {name} -o OUTPUT --alpha ALPHA."
    if os.path.exists(word) or (suffix and suffix[1:].isalnum()):
        return f"A command comes first: {PROGRAM_NAME} run BUNDLE {name} -o OUTPUT --alpha ALPHA."
    meant = next(iter(match_case(word, COMMANDS)), None) or find_command_by_word(word)
    hint = f"; did you mean {meant!r}?" if meant else suggest_name(word, COMMANDS)
    return f"There is no command {name!r}{hint}"


def explain_usage_error(
    error: click.UsageError, command: click.Command, ctx: click.Context, args: Sequence[str]
) -> click.UsageError:
    """Adds what was probably meant to an error of click's parser.

    Args:
        error: The error.
        command: The command whose arguments were parsed.
        ctx: Its context.
        args: The arguments.

    Returns:
        The error to raise in its place.
    """
    if error.ctx is None:
        error.ctx = ctx
    usage = format_usage(command, ctx)
    if isinstance(error, click.NoSuchOption):
        return click.UsageError(_explain_unknown_option(error.option_name, command, args, usage), ctx)
    if isinstance(error, click.MissingParameter):
        return click.UsageError(_explain_missing_parameter(error, usage), ctx)
    if type(error) is click.UsageError and "extra argument" in error.message:
        return click.UsageError(f"{error.message.rstrip('.')}; the usage is: {usage}.", ctx)
    return error


def format_usage(command: click.Command, ctx: click.Context) -> str:
    """Formats how a command is called, with the options that it requires: dni-deploy run BUNDLE INPUTS... -o OUTPUT."""
    if isinstance(command, click.Group):
        return FIRST_COMMAND_LINE
    arguments = [
        parameter.make_metavar(*_metavar_arguments(ctx))
        for parameter in command.params
        if parameter.param_type_name == "argument"
    ]
    required = [
        f"{parameter.opts[0]} {(parameter.name or '').upper()}"
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.required
    ]
    return " ".join((ctx.command_path, *arguments, *required))


def _metavar_arguments(ctx: click.Context) -> tuple[click.Context, ...]:
    """What `make_metavar` takes: nothing before click 8.2."""
    return (ctx,) if "ctx" in click.Argument.make_metavar.__code__.co_varnames else ()


def _explain_unknown_option(option: str, command: click.Command, args: Sequence[str], usage: str) -> str:
    own_options = [
        spelling
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    ]
    own_options += ["-h", "--help"]
    # Of -crf click's parser tells -c: the whole word is looked up as well.
    words = [word.partition("=")[0] for word in args if word.startswith(option)]
    for spelling in (*words, option):
        answer = answer_other_option(spelling, own_options, usage)
        if answer is not None and (usage in answer or not isinstance(command, click.Group)):
            return f"There is no option {escape_name(spelling)!r}: {answer}."
    if isinstance(command, click.Group):
        return f"There is no option {escape_name(option)!r} before a command, and a command comes first: {usage}."
    spelling = words[0] if words and not option.startswith("--") and len(words[0]) > 2 else option
    return f"There is no option {escape_name(spelling)!r}{suggest_name(spelling, own_options)}"


def _explain_missing_parameter(error: click.MissingParameter, usage: str) -> str:
    parameter = error.param
    if isinstance(parameter, click.Option):
        text = re.split(r"  \[|: |\. ", parameter.help or "")[0].rstrip(".")
        return f"Missing option {' or '.join(parameter.opts)}, {text[:1].lower()}{text[1:]}: {usage}."
    name = parameter.human_readable_name if parameter is not None else "argument"
    return f"Missing argument {name}: {usage}."
