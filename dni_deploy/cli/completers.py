"""What the shell completes beyond names of options and files: members of the bundle, engines, and PowerShell's own protocol."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME

ENGINE_NAMES = ("auto", "tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "onnxruntime")
"""What --engine takes, without an import of the engines."""

MAX_READ_BYTES = 4 << 20

_POWERSHELL_SCRIPT = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $env:%(complete_var)s = "powershell_complete"
    $env:COMP_WORDS = $commandAst.ToString()
    $env:COMP_CWORD = $wordToComplete
    try {
        & %(prog_name)s | ForEach-Object {
            $type, $value, $help = $_ -split "`t", 3
            # Names of files are left to PowerShell, which completes them where nothing else does.
            if ($type -eq "plain") {
                if (-not $help) { $help = $value }
                [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
            }
        }
    } finally {
        $env:%(complete_var)s = $null
        $env:COMP_WORDS = $null
        $env:COMP_CWORD = $null
    }
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell, which click does not have."""

    name = "powershell"
    source_template = _POWERSHELL_SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """Reads the words of the command line, and the one that is not finished. Backslashes stay: they are in paths."""
        line, incomplete = os.environ.get("COMP_WORDS", ""), os.environ.get("COMP_CWORD", "").strip("\"'")
        words = [word.strip("\"'") for word in re.findall(r"\"[^\"]*\"?|'[^']*'?|[^\s\"']+", line)][1:]
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Formats one completion as a line of three fields."""
        return f"{item.type}\t{item.value}\t{' '.join((item.help or '').split())}"


add_completion_class(PowerShellComplete)


def complete_alpha(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the names of the bundle's members in an alpha: psnr=0.3,g becomes psnr=0.3,gan=."""
    before, comma, name = incomplete.rpartition(",")
    # While an option has no value yet, click has parsed no arguments: they are what is left.
    bundle = ctx.params.get("bundle") or next(iter(ctx.args), "")
    given = {part.partition("=")[0].strip().casefold() for part in before.split(",")}
    return [
        CompletionItem(f"{before}{comma}{member}=")
        for member in _read_members(bundle)
        if member.casefold() not in given and member.casefold().startswith(name.casefold())
    ]


def complete_engine(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the name of an engine."""
    return [CompletionItem(name) for name in ENGINE_NAMES if name.startswith(incomplete)]


def _read_members(bundle: str | Path) -> list[str]:
    """The members of a bundle, unchecked: nothing is run here, and an error would only disturb the line that is being typed."""
    try:
        with open(Path(bundle, MANIFEST_FILE_NAME), "rb") as file:
            members = json.loads(file.read(MAX_READ_BYTES))["members"]
        return [name for name in (member["name"] for member in members) if isinstance(name, str) and name.isprintable()]
    except (OSError, ValueError, KeyError, TypeError):
        return []
