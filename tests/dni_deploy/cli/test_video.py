"""`dni-deploy video`: how options of the command line reach the encoder."""

from __future__ import annotations

import click
import pytest

from dni_deploy.cli.video import command, parse_encoder_options
from dni_deploy.errors import UsageError


def test_encoder_options_are_parsed() -> None:
    context = click.Context(command)
    parsed = parse_encoder_options(context, command.params[0], ("x265-params=lossless=1", "b=8M", "b=9M"))
    assert parsed == {"x265-params": "lossless=1", "b": "9M"}


@pytest.mark.parametrize("text", ["tune", "=film", "tune="])
def test_an_encoder_option_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE, such as tune=film"):
        parse_encoder_options(click.Context(command), command.params[0], (text,))
