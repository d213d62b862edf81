"""The shell blocks of a page: what a reader may paste into a terminal, and how the page says that a block is not run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER_TIMEOUT_S = 60
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?:sh|bash|console)\n(?P<text>.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class ShellBlock:
    """A block.

    Attributes:
        page: The page's path in the repository.
        mark: The comment above the block: "not run: REASON" or "run by: TEST FILE"; "" where there is none.
        commands: Its commands, without prompts, comments and what a prompt's command prints.
    """

    page: str
    mark: str
    commands: tuple[str, ...]


def find_shell_blocks(page: str) -> list[ShellBlock]:
    """Finds the blocks of a page that are marked as sh, bash or console."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [ShellBlock(page, match["mark"] or "", split_commands(match["text"])) for match in BLOCK.finditer(text)]


def split_commands(text: str) -> tuple[str, ...]:
    """Splits a block into commands: a backslash continues a line, and after a `$ ` everything without one is output."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    lines = [re.sub(r"\s+# .*$", "", line).strip() for line in lines]
    return tuple(line for line in lines if line and not line.startswith("#"))


def find_own_calls(command: str) -> list[list[str]]:
    """Finds each call of `dni-deploy` in a command line, also in a pipe and behind variables, as its arguments."""
    calls = []
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "|"]:
        if word[0] not in "|<>;&":
            words.append(word)
            continue
        called = [
            place for place, one in enumerate(words) if one == "dni-deploy" and all("=" in before for before in words[:place])
        ]
        calls += [words[place + 1 :] for place in called]
        words = []
    return calls


def check_server(command: str, environment: dict[str, str] | None = None) -> None:
    """Starts the live page, opens its address, and ends it by Ctrl-C."""
    shell = f"exec env {command} --port 0 --no-open" if "=" in command.split()[0] else f"exec {command} --port 0 --no-open"
    variables = {**os.environ, **(environment or {})}
    process = subprocess.Popen(
        ["bash", "-c", shell], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, env=variables
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), command
        with urllib.request.urlopen(address, timeout=SERVER_TIMEOUT_S) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SERVER_TIMEOUT_S) == 130
    finally:
        process.kill()
        process.communicate()
