"""`dni-deploy help`: the help of a command, or the manual page of all."""

from __future__ import annotations

import click

from dni_deploy.cli import options
from dni_deploy.cli.commands import COMMANDS, PROGRAM_NAME
from dni_deploy.cli.output import CommandOutput
from dni_deploy.cli.usage_errors import explain_unknown_command
from dni_deploy.errors import UsageError


@options.command(
    "help",
    """
    dni-deploy help
    dni-deploy help run
    dni-deploy help --man > ~/.local/share/man/man1/dni-deploy.1
    """,
)
@click.argument("topic", metavar="[COMMAND]", required=False)
@click.option("--man", is_flag=True, help="Print the manual page of all commands, in the format of man.")
def command(command_output: CommandOutput, topic: str | None, man: bool) -> None:
    """Show the help of a command, or the summary of all."""
    from dni_deploy.cli.dispatch import group
    from dni_deploy.cli.man_page import format_man_page

    context = click.Context(group, info_name=PROGRAM_NAME, **group.context_settings)
    if man:
        if topic is not None:
            raise UsageError("The manual page is one for all commands: dni-deploy help --man.")
        text = format_man_page(group, context)
    elif topic is None:
        text = group.get_help(context)
    elif topic in COMMANDS:
        chosen = group.get_command(context, topic)
        assert chosen is not None
        text = chosen.get_help(click.Context(chosen, parent=context, info_name=topic, **chosen.context_settings))
    else:
        raise UsageError(explain_unknown_command(topic))
    if not command_output.print_result("help", {"topic": topic, "text": text}):
        click.echo(text)
