"""`dni-deploy completion`: the completion script of a shell."""

from __future__ import annotations

import click

from dni_deploy.cli import options
from dni_deploy.cli.commands import COMPLETE_VARIABLE, PROGRAM_NAME
from dni_deploy.cli.output import CommandOutput


@options.command(
    "completion",
    """
    eval "$(dni-deploy completion bash)"
    dni-deploy completion zsh > ~/.zfunc/_dni-deploy
    dni-deploy completion fish > ~/.config/fish/completions/dni-deploy.fish
    dni-deploy completion powershell >> $PROFILE
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def command(command_output: CommandOutput, shell: str) -> None:
    """Print the completion script of a shell, to be evaluated or saved where that shell looks.

    Completed are commands, options, files, engines, and in --alpha the members of the bundle.
    """
    from click.shell_completion import get_completion_class

    import dni_deploy.cli.completers  # noqa: F401  # adds PowerShell
    from dni_deploy.cli.dispatch import group

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(group, {}, PROGRAM_NAME, COMPLETE_VARIABLE).source()
    if not command_output.print_result("completion", {"shell": shell, "script": script}):
        click.echo(script)
