"""Values on the command line: numbers with their range in words, paths, and paths or addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from dni_deploy.utils.address import as_local_path, as_location


class _PlainRange:
    """Describes a range as people write it, and explains a decimal comma; a mixin before click's own range types."""

    noun = "a number"

    def _describe_range(self: Any) -> str:
        """Formats the range for help texts and errors: 0 to 1, above 0, 2 or more."""
        if self.max is not None:
            return f"{self.min:g} to {self.max:g}" if self.min is not None else f"{self.max:g} or less"
        if self.min is None:
            return ""
        return f"above {self.min:g}" if self.min_open else f"{self.min:g} or more"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts a text; the error says the range, and the point that a decimal comma stands for."""
        try:
            return super().convert(value, param, ctx)  # type: ignore[misc]  # of click's type
        except click.BadParameter as error:
            message = f"{str(value)!r} is not {self.noun}"
            if self._describe_range():
                message += f", {self._describe_range()}"
            if isinstance(value, str) and re.fullmatch(r"-?\d+,\d+", value):
                message += f"; a decimal fraction has a point, {value.replace(',', '.')}"
            raise click.BadParameter(f"{message}.", ctx=error.ctx, param=error.param) from None


class IntRange(_PlainRange, click.IntRange):
    """A whole number in a range."""

    noun = "a whole number"


class FloatRange(_PlainRange, click.FloatRange):
    """A number in a range."""


class LocalPathType(click.Path):
    """A path of this machine, which becomes a Path; an address is refused whole, before a Path drops one of its slashes."""

    def __init__(self) -> None:
        """Initializes the type."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts a text."""
        if not isinstance(value, str):
            return value
        if isinstance(param, click.Option):
            return as_local_path(value, param.opts[0])
        return as_local_path(value, "this" if param is None else param.human_readable_name)


class LocationType(LocalPathType):
    """A path of this machine, which becomes a Path, or an address, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts a text."""
        return as_location(value) if isinstance(value, str) else value


def set_plain_type(option: click.Option) -> None:
    """Gives an option with one of click's ranges the type of this module, and a metavar that a reader knows.

    Args:
        option: The option; one with a metavar keeps it.
    """
    kind = option.type
    if option.count or option.is_flag:
        return
    if type(kind) in (click.IntRange, click.FloatRange):
        limits: dict[str, Any] = {name: getattr(kind, name) for name in ("min", "max", "min_open", "max_open", "clamp")}
        is_whole = isinstance(kind, click.IntRange)
        option.type = IntRange(**limits) if is_whole else FloatRange(**limits)
        option.metavar = option.metavar or ("N" if is_whole else "NUMBER")
    elif kind is click.STRING:
        option.metavar = option.metavar or option.opts[-1].lstrip("-").replace("-", "_").upper()
