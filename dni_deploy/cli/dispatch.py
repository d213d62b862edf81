"""Runs one command line: the group of all commands, and the sentence and exit code of every error."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from dni_deploy._version import __version__
from dni_deploy.cli.commands import COMMANDS, COMPLETE_VARIABLE, PROGRAM_NAME, format_help_summary
from dni_deploy.cli.logs import hide_logs, show_logs
from dni_deploy.cli.output import CommandOutput
from dni_deploy.cli.usage_errors import ExplainedCommand, explain_unknown_command
from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name
from dni_deploy.utils.hardware import cache_folder
from dni_deploy.utils.native_calls import end_calls_at_signals
from dni_deploy.utils.optional_packages import explain_missing_package

EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 130, 141

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a command like Ctrl-C, so that its temporary files are removed: a kill, and a terminal that is closed."""


class CommandGroup(ExplainedCommand, click.Group):
    """A group whose commands are imported when they are called, and whose help is the help summary."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports a command; None where there is none of this name."""
        if name not in COMMANDS:
            return None
        from importlib import import_module

        command = import_module(f"dni_deploy.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def get_help(self, ctx: click.Context) -> str:
        """Returns the help summary."""
        return format_help_summary()

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first argument names."""
        if args[0] not in COMMANDS:
            raise click.UsageError(explain_unknown_command(args[0]), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DNI"})
@click.option("-q", "--quiet", is_flag=True)
@click.option("-v", "--verbose", count=True)
@click.option("--debug", is_flag=True)
@click.version_option(__version__, message=f"{PROGRAM_NAME} %(version)s")
@click.pass_obj
def group(command_output: CommandOutput, quiet: bool, verbose: int, debug: bool) -> None:
    """Sets the options that stand before the command."""
    command_output.quiet, command_output.debug = command_output.quiet or quiet, command_output.debug or debug
    show_logs(verbose)


def run_command_line(args: list[str]) -> int:
    """Runs one command line; every error becomes one sentence on stderr.

    Args:
        args: The arguments after the program's name.

    Returns:
        The exit code.
    """
    if COMPLETE_VARIABLE in os.environ:
        import dni_deploy.cli.completers  # noqa: F401  # adds PowerShell

        return shell_complete(group, {}, PROGRAM_NAME, COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
    command_output = CommandOutput(json="--json" in args, debug="--debug" in args)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    _keep_matplotlib_in_cache()
    try:
        with _handle_signals(), group.make_context(PROGRAM_NAME, list(args), obj=command_output) as context:
            group.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except (click.Abort, KeyboardInterrupt):
        return command_output.print_error("Stopped", "stopped.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_PIPE_CLOSED
    except Exception as error:
        _drop_stdout()
        if command_output.debug:
            traceback.print_exc()
        return command_output.print_error(*_describe_error(error))
    finally:
        command_output.show_cursor()
        hide_logs()


def _describe_error(error: Exception) -> tuple[str, str, int]:
    """Returns kind, sentence and exit code of an error."""
    if isinstance(error, ModuleNotFoundError):
        error = explain_missing_package(error) or error
    if isinstance(error, DniError):
        return error.kind, str(error), error.exit_code
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else PROGRAM_NAME
        return UsageError.kind, f"{escape_name(error.format_message(), 1000)} See '{where} -h'.", error.exit_code
    if isinstance(error, click.ClickException):
        return UsageError.kind, escape_name(error.format_message(), 1000), 2
    if isinstance(error, MemoryError):
        return LimitError.kind, "not enough memory; a smaller image, --tile or fewer threads need less.", LimitError.exit_code
    if isinstance(error, OSError):
        # What has no file's name and finds no room is what is printed.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = LimitError if full else InputError
        if error.filename is not None or full:
            name = "stdout" if error.filename is None else escape_name(error.filename)
            return kind.kind, f"{name}: {error.strerror}.", kind.exit_code
    return "Bug", _report_bug(error), DniError.exit_code


def _report_bug(error: Exception) -> str:
    """Writes the traceback of an unexpected error to a file; returns the sentence that names it."""
    description = f"{type(error).__name__}: {escape_name(error, 300)}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="dni-deploy-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except OSError:
        return f"a bug in dni-deploy: {description}. Run it again with --debug and report what it shows."
    return f"a bug in dni-deploy: {description}. Please report it with {file.name}."


def _drop_stdout() -> None:
    """Drops what stdout cannot take: the interpreter flushes it once more at its end, and would fail."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _keep_matplotlib_in_cache() -> None:
    """Has matplotlib keep its list of fonts in our cache folder, not in folders of its own in the home folder."""
    folder = cache_folder()
    if folder is not None:
        os.environ.setdefault("MPLCONFIGDIR", os.fspath(folder / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it cannot be written, it uses a temporary one, and says so


@contextmanager
def _handle_signals() -> Iterator[None]:
    """Lets signals end the command within the block: what runs in native code, and then the stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in TERMINATION_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _terminate)
    with end_calls_at_signals((signal.SIGINT, *TERMINATION_SIGNALS)):
        yield


def _terminate(number: int, frame: object) -> NoReturn:
    """Unwinds the stack, so that temporary files are removed."""
    raise SystemExit(128 + number)
