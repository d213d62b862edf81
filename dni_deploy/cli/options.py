"""Options: what several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import click

from dni_deploy.cli.commands import COMMANDS
from dni_deploy.cli.output import CommandOutput
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.optional_packages import import_optional

Function = TypeVar("Function", bound=Callable[..., Any])
PATH_TYPE = click.Path(path_type=Path)


def _combine(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator, in the order of the help."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class CommandWithExamples(click.Command):
    """A command whose help ends with examples, printed as written."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line in self.examples.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


def command(name: str, examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a function the command `name`.

    Args:
        name: The command's name, one of COMMANDS.
        examples: One command line per line, shown at the end of the help.

    Returns:
        A decorator. The function's docstring is the help; it is called with the CommandOutput and with the values of the
        command line, of which those that belong together have become one object (see OPTION_OBJECTS).
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        parameters = signature(function).parameters

        @wraps(function)
        def callback(command_output: CommandOutput, **values: Any) -> Any:
            _resolve_slider(values)
            _resolve_rules(values)
            _resolve_alpha_map(values)
            for parameter, (module, class_name) in OPTION_OBJECTS.items():
                if parameter in parameters:
                    options_class = getattr(import_optional(module), class_name)
                    chosen = {field.name: values.pop(field.name) for field in fields(options_class) if field.name in values}
                    values[parameter] = options_class(**chosen)
            return function(command_output, **values)

        settings = {"help_option_names": ["-h", "--help"]}
        result = click.command(
            name, cls=CommandWithExamples, short_help=COMMANDS[name], examples=examples, context_settings=settings
        )(click.pass_obj(callback))
        result.params += [
            _make_flag("--json", "json", "One JSON object on stdout."),
            _make_flag("-q/--quiet", "quiet", "No progress on stderr."),
            _make_flag("--debug", "debug", "Show the traceback of an error."),
        ]
        return result

    return decorate


OPTION_OBJECTS = {
    "session_options": ("dni_deploy.session.options", "SessionOptions"),
    "listeners": ("dni_deploy.control.open_listeners", "ListenerOptions"),
    "encoder": ("dni_deploy.video_io.encoder", "EncoderOptions"),
}
"""Parameter of a command -> module and class of the library that holds the command line's values for its fields."""


def _make_flag(spelling: str, field: str, text: str) -> click.Option:
    def set_flag(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        surface = ctx.find_object(CommandOutput)
        if value and surface is not None:
            setattr(surface, field, True)

    return click.Option(spelling.split("/"), is_flag=True, expose_value=False, callback=set_flag, is_eager=True, help=text)


alpha_or_map = click.option(
    "--alpha",
    metavar="ALPHA",
    help="The first member's share, 0 to 1 (two members); or shares by name, psnr=0.35,gan=0.65; or one number per member. "
    "Needed, except with an alpha map between two members, or a recipe that has one.",
)


alpha_optional = click.option(
    "--alpha",
    metavar="ALPHA",
    help="The first member's share, 0 to 1 (two members); or shares by name, psnr=0.35,gan=0.65; or one number per member. "
    "Needed, except with --slider, or with a recipe that has one.",
)


slider = click.option(
    "--slider",
    type=click.FloatRange(0, 1),
    metavar="POSITION",
    help="In place of --alpha: 0 to 1 on the slider with even steps that `dni-deploy slider` keeps in the bundle.",
)


def _resolve_slider(values: dict[str, Any]) -> None:
    """Turns a position of the bundle's slider into the alpha that it stands for.

    The command then gets the bundle opened: to open it again would hash every file of it again, and might find another one.
    """
    position = values.pop("slider", None)
    if position is None:
        return
    if values["alpha"] is not None:
        raise UsageError("--alpha and --slider say the same thing in two ways; give one of them.")
    values["bundle"] = import_optional("dni_deploy.bundle.bundle").Bundle.open(values["bundle"])
    values["alpha"] = values["bundle"].alpha_at(position)


alpha_map_options = _combine(
    click.option(
        "--alpha-map",
        type=PATH_TYPE,
        metavar="MASK",
        help="A grey picture with an alpha for each pixel; black is --alpha. For a film, also a grey film of as many frames.",
    ),
    click.option("--alpha-map-to", metavar="ALPHA", help="The alpha where MASK is white.  [default: the first member alone]"),
    click.option(
        "--levels",
        type=click.IntRange(2, 256),
        help="Run the network at so many alphas from black to white and interpolate between.  "
        "[default: MASK's own values if they are few, else 9]",
    ),
    click.option("--alpha-map-fit", is_flag=True, help="Scale MASK to the picture where it has another size."),
)


def _resolve_alpha_map(values: dict[str, Any]) -> None:
    """Turns the options of an alpha map into one AlphaMapOptions, or None."""
    if "alpha_map" not in values:
        return
    names = ("alpha_map_to", "levels", "alpha_map_fit", "alpha_map_error")
    settings = [values.pop(name, False) for name in names]
    if values["alpha_map"] is not None:
        values["alpha_map"] = import_optional("dni_deploy.spatial.alpha_map").AlphaMapOptions(values["alpha_map"], *settings)
    elif any(setting not in (None, False) for setting in settings):
        raise UsageError(
            "--alpha-map-to, --levels, --alpha-map-fit and --alpha-map-error go with a map: give --alpha-map MASK."
        )


group_rule_options = _combine(
    click.option(
        "--alpha-for",
        multiple=True,
        metavar="PATTERN=ALPHA",
        help="An alpha for some of the weights, by name or role: 'norm:*=0.2', 'body.[0-7].*=0.8', 'body.*=0.2..0.8' over "
        "depth, 'bias:*=base*0.5' of --alpha. Again for more; later ones win. `dni-deploy inspect --groups` lists the weights.",
    ),
    click.option(
        "--recipe", type=PATH_TYPE, metavar="FILE", help="Rules of that kind, and an alpha to begin with, from a file."
    ),
)


def _resolve_rules(values: dict[str, Any]) -> None:
    """Turns --alpha-for and --recipe into the list of rules, and gives the preset's alpha where the command line has none."""
    if "alpha_for" not in values:
        return
    texts, path = values.pop("alpha_for"), values.pop("recipe")
    values["rules"] = list(texts)
    if path is not None:
        preset = import_optional("dni_deploy.blending.preset").Preset.read(path, extrapolate=values.get("extrapolate", False))
        values["rules"] = [*preset.rules, *texts]
        if "alpha" in values and values["alpha"] is None:
            values["alpha"] = preset.alpha


save_preset = click.option("--save-recipe", type=PATH_TYPE, metavar="FILE", help="Keep alpha and the rules for groups here.")


def format_rules(rules: Iterable[Any]) -> str | None:
    """Rules with the numbers of their weights, for people."""
    return "; ".join(f"{escape_name(rule.weights)}={escape_name(rule.alpha)} ({rule.count} weights)" for rule in rules) or None


alpha_map_error = click.option(
    "--alpha-map-error", is_flag=True, help="Tell how far the levels are from twice as many; takes three times as long."
)
extrapolate = click.option(
    "--extrapolate", is_flag=True, help="Allow shares outside 0 to 1, as far as every variance stays positive."
)


engine = click.option(
    "--engine",
    metavar="auto|NAME",
    default="auto",
    show_default=True,
    help="What runs the network: tensorrt, onnxruntime-gpu or onnxruntime; auto takes the first of these that can run here, and "
    "tells which and why.",
)
precision = click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="Of a GPU engine; on the CPU all is fp32.  [default: the plan's]"
)
device = click.option("--device", type=click.IntRange(0, 255), default=0, help="The number of the GPU, from 0.")
threads = click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the engine; 0: one per core.")


session_options = _combine(engine, precision, device, threads)
"""What every command that runs a network takes; the command gets it as one SessionOptions, `session_options`."""


def format_engine(name: str, reason: str) -> str:
    """The engine, and why it is the one, on one line."""
    return f"{name} ({reason})" if reason else name


force = click.option("--force", is_flag=True, help="Replace an output that exists.")
tile = click.option("--tile", type=click.IntRange(16, 2**16), help="Process in square tiles of this many input pixels.")
overlap = click.option("--overlap", type=click.IntRange(0, 2**14), help="Input pixels that neighbouring tiles share.")
bundle = click.argument("bundle", type=PATH_TYPE)


def output_option(text: str, *, required: bool = True, default: str | None = None) -> Callable[[Function], Function]:
    return click.option("-o", "--output", type=PATH_TYPE, required=required, default=default, show_default=True, help=text)


def format_coefficients(alpha: Mapping[str, float]) -> str:
    """Names with their shares, for people."""
    return ", ".join(f"{escape_name(name)}={share:.6g}" for name, share in alpha.items())


def parse_members(arguments: tuple[str, ...]) -> dict[str, Path]:
    """NAME=PATH_TYPE arguments as a family: a bare PATH_TYPE takes the file's stem as its name. Raises UsageError on a name given twice."""
    found: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists() or "/" in name:
            name, path = Path(argument).stem, argument
        if not path:
            raise UsageError(f"{escape_name(argument)!r} names a member and no file; write NAME=PATH.")
        if name in found:
            raise UsageError(f"Two members are named {escape_name(name)!r}; write NAME=PATH to give each its own name.")
        found[name] = Path(path)
    return found


def parse_value_range(text: str | None) -> tuple[float, float] | None:
    """LO..HI as two numbers: what stands for black and white. Raises UsageError."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        pair = (float(low), float(high))
    except ValueError:
        raise UsageError(f"--range {escape_name(text)} is not LO..HI, such as 0..1 or -1..1.") from None
    if not dots or not pair[0] < pair[1] or pair[1] - pair[0] == float("inf"):
        raise UsageError(f"--range {escape_name(text)} is not LO..HI with LO below HI, such as 0..1 or -1..1.")
    return pair
