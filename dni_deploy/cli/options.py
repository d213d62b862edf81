"""The options that several commands share, and how a function becomes a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import click

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME, as_bundle_location, check_bundle_folder
from dni_deploy.cli.commands import COMMANDS, DEBUG_HELP, QUIET_HELP, VERBOSE_HELP
from dni_deploy.cli.completers import complete_alpha, complete_engine
from dni_deploy.cli.logs import show_logs
from dni_deploy.cli.option_types import IntRange, LocalPathType, LocationType, set_plain_type
from dni_deploy.cli.output import CommandOutput
from dni_deploy.cli.usage_errors import ExplainedCommand
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.address import Location, as_local_path
from dni_deploy.utils.file_entry import split_entry
from dni_deploy.utils.optional_packages import import_optional

Function = TypeVar("Function", bound=Callable[..., Any])
PATH_TYPE = LocalPathType()
LOCATION_TYPE = LocationType()

OPTION_OBJECTS = {
    "session_options": ("dni_deploy.session.options", "SessionOptions"),
    "file_options": ("dni_deploy.imaging.image_tasks", "ImageFileOptions"),
    "listeners": ("dni_deploy.control.open_listeners", "ListenerOptions"),
    "calibration": ("dni_deploy.api.build", "CalibrationOptions"),
    "preview": ("dni_deploy.api.serve", "PreviewOptions"),
    "encoder": ("dni_deploy.video_io.encoder", "EncoderOptions"),
    "job": ("dni_deploy.jobs.shard", "JobOptions"),
    "model_options": ("dni_deploy.model_repository.model_config", "ModelOptions"),
    "ray_options": ("dni_deploy.jobs.ray_options", "RayOptions"),
    "sweep_settings": ("dni_deploy.api.sweep_images", "SweepSettings"),
    "input_options": ("dni_deploy.video_io.video_file", "InputOptions"),
}
"""Parameter of a command -> module and class of the library that holds the command line's values for its fields."""


class CommandWithExamples(ExplainedCommand):
    """A command whose help ends with examples, printed as written."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        """Initializes the command.

        Args:
            *args: As click.Command takes them.
            examples: One command line per line.
            **kwargs: As click.Command takes them.
        """
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        with formatter.section("Examples"):
            for line in self.examples.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class AliasedOption(click.Option):
    """An option whose former names still work and are not shown."""

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **kwargs: Any) -> None:
        """Initializes the option.

        Args:
            *args: As click.Option takes them.
            aliases: The former names, such as "--recipe".
            **kwargs: As click.Option takes them.
        """
        super().__init__(*args, **kwargs)
        self.aliases = list(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Lets the parser know the former names, too."""
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        super().add_to_parser(parser, ctx)
        self.opts = shown


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
            _note_decimal_comma(command_output, values)
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
            _make_flag("--json", "json", "Print one JSON object on stdout."),
            _make_flag("-q/--quiet", "quiet", QUIET_HELP),
            click.Option(
                ["-v", "--verbose"], count=True, expose_value=False, callback=_show_logs, is_eager=True, help=VERBOSE_HELP
            ),
            _make_flag("--debug", "debug", DEBUG_HELP),
        ]
        for parameter in result.params:
            if isinstance(parameter, click.Option) and parameter.allow_from_autoenv:
                spellings = (*parameter.opts, *getattr(parameter, "aliases", ()))
                parameter.envvar = [
                    f"DNI_{name}_{spelling[2:]}".replace("-", "_").upper() for spelling in spellings if spelling[:2] == "--"
                ]
                set_plain_type(parameter)
        return result

    return decorate


def _note_decimal_comma(command_output: CommandOutput, values: Mapping[str, Any]) -> None:
    """Notes how an alpha was read that may mean another one."""
    for value in (values.get("alpha"), values.get("alpha_map_to")):
        if isinstance(value, str) and "," in value:
            note = import_optional("dni_deploy.alpha.coefficients").find_decimal_comma(value)
            if note is not None:
                command_output.print_note(note)


def _make_flag(spelling: str, field: str, text: str) -> click.Option:
    """Makes an option that sets a field of the CommandOutput."""

    def set_flag(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        command_output = ctx.find_object(CommandOutput)
        if value and command_output is not None:
            setattr(command_output, field, True)

    return click.Option(spelling.split("/"), is_flag=True, expose_value=False, callback=set_flag, is_eager=True, help=text)


def _show_logs(ctx: click.Context, param: click.Parameter, count: int) -> None:
    show_logs(count)


def _combine(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Makes one decorator of several options, in the order of the help."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def make_alpha_option(exception: str) -> Callable[[Function], Function]:
    """Makes the option --alpha of a command that renders with one alpha.

    Args:
        exception: What may stand in for the option, for the help.

    Returns:
        The decorator.
    """
    return click.option(
        "--alpha",
        metavar="ALPHA",
        shell_complete=complete_alpha,
        help="The first member's share, 0 to 1 (two members); or shares by name, psnr=0.35,gan=0.65; or one number per member. "
        f"Required unless {exception} supplies it.",
    )


slider = click.option(
    "--slider",
    type=click.FloatRange(0, 1),
    metavar="POSITION",
    help="Instead of --alpha: a position, 0 to 1, of the perceptually uniform slider that `dni-deploy slider` stores in the bundle.",
)


def _resolve_slider(values: dict[str, Any]) -> None:
    """Turns a position of the bundle's slider into the alpha that it stands for.

    The command then gets the bundle opened: to open it again would hash every file of it again, and might find another one.
    """
    position = values.pop("slider", None)
    if position is None:
        return
    if values["alpha"] is not None:
        raise UsageError("--alpha and --slider both set alpha; give one of them.")
    values["bundle"] = import_optional("dni_deploy.bundle.bundle").Bundle.open(values["bundle"])
    values["alpha"] = values["bundle"].alpha_at(position)


alpha_map_options = _combine(
    click.option(
        "--alpha-map",
        type=PATH_TYPE,
        metavar="MASK",
        help="A gray image with an alpha for each pixel; black is --alpha. For a video, also a gray video with as many frames.",
    ),
    click.option(
        "--alpha-map-to",
        metavar="ALPHA",
        shell_complete=complete_alpha,
        help="The alpha where MASK is white.  [default: the first member alone]",
    ),
    click.option(
        "--levels",
        type=click.IntRange(2, 256),
        help="Number of alphas at which the network runs, from black to white; pixels between them are interpolated.  "
        "[default: MASK's own values if they are few, else 9]",
    ),
    click.option("--alpha-map-fit", is_flag=True, help="Scale MASK to the image if it has another size."),
)
alpha_map_error = click.option(
    "--alpha-map-error", is_flag=True, help="Measure the error of the levels against twice as many; takes three times as long."
)


def _resolve_alpha_map(values: dict[str, Any]) -> None:
    """Turns the options of an alpha map into one AlphaMapOptions, or None."""
    if "alpha_map" not in values:
        return
    settings = [values.pop(name, False) for name in ("alpha_map_to", "levels", "alpha_map_fit", "alpha_map_error")]
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
        "depth, 'bias:*=base*0.5' of --alpha. Repeatable; later ones win. `dni-deploy inspect --groups` lists the weights.",
    ),
    click.option(
        "--alpha-preset",
        cls=AliasedOption,
        aliases=("--recipe",),
        type=PATH_TYPE,
        metavar="FILE",
        help="A file with rules like those of --alpha-for and, optionally, an alpha.",
    ),
)
save_alpha_preset = click.option(
    "--save-alpha-preset",
    "save_preset",
    cls=AliasedOption,
    aliases=("--save-recipe",),
    type=PATH_TYPE,
    metavar="FILE",
    help="Save alpha and the rules as a preset.",
)


def _resolve_rules(values: dict[str, Any]) -> None:
    """Turns --alpha-for and --alpha-preset into a list of rules; the preset's alpha counts where the command line has none."""
    if "alpha_for" not in values:
        return
    texts, path = values.pop("alpha_for"), values.pop("alpha_preset")
    values["rules"] = list(texts)
    if path is not None:
        preset = import_optional("dni_deploy.blending.preset").Preset.read(path, extrapolate=values.get("extrapolate", False))
        values["rules"] = [*preset.rules, *texts]
        if "alpha" in values and values["alpha"] is None:
            values["alpha"] = preset.alpha


extrapolate = click.option(
    "--extrapolate", is_flag=True, help="Allow shares outside 0 to 1, as far as every variance stays positive."
)
engine = click.option(
    "--engine",
    metavar="NAME",
    default="auto",
    shell_complete=complete_engine,
    show_default=True,
    help="The engine that runs the network: tensorrt, tensorrt-rtx, onnxruntime-gpu or onnxruntime; auto chooses the first of them that "
    "can run here and says why. `dni-deploy doctor` lists all engines.",
)
PRECISION_TYPE = click.Choice(["fp32", "tf32", "fp16"])
precision = click.option(
    "--precision",
    type=PRECISION_TYPE,
    help="Precision of a GPU engine; the CPU always computes in fp32.  [default: the plan's]",
)
device = click.option("--device", type=click.IntRange(0, 255), default=0, show_default=True, help="Number of the GPU, from 0.")
threads = click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    help="Number of threads of the engine; 0: one per core.",
)


def _parse_controls(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = import_optional("dni_deploy.network_controls").parse_values(texts) if texts else {}
    return values


controls = click.option(
    "--control",
    "controls",
    multiple=True,
    callback=_parse_controls,
    metavar="NAME=VALUE",
    help="A value for what the network takes beside the image, such as sigma=25/255; `dni-deploy inspect` lists its controls. "
    "Repeatable.  [default: the bundle's]",
)
trust_plans_of = click.option(
    "--trust-plans-of",
    multiple=True,
    metavar="USER",
    allow_from_autoenv=False,
    help="Also open TensorRT plans that this other account has built, on shared storage; its key has to be here, see docs/security.md. "
    "Repeatable.",
)  # a variable that is left set would widen the trust unasked
session_options = _combine(engine, precision, device, threads, controls, trust_plans_of)
"""What every command that runs a network takes; the command gets it as one SessionOptions, `session_options`."""

arch = click.option(
    "--arch", metavar="NAME", default="auto", show_default=True, help="Name of the architecture, or package.module:factory."
)
key = click.option(
    "--key",
    metavar="ENTRY",
    help="Entry to read in each file that holds several networks, such as params_ema or generator; PATH#ENTRY for one file.",
)
osc_map = click.option(
    "--osc-map",
    multiple=True,
    metavar="ADDRESS=TARGET",
    help="What an OSC address of another program sets: alpha, alpha:MEMBER, shares, plane, x or y, and the range of its "
    "numbers if it is not 0..1, such as /1/fader1=alpha:gan[0..127]. Repeatable.",
)


class _WorkerCount(IntRange):
    """A number of workers, or "auto", which becomes None."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts the text."""
        return None if value == "auto" else super().convert(value, param, ctx)


ray_options = _combine(
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Do the work on a Ray cluster: auto (RAY_ADDRESS, or the one of this machine), local (one is started here), HOST:PORT, "
        "or ray://HOST:PORT from outside.  [default: in this process]",
    ),
    click.option(
        "--workers",
        type=_WorkerCount(1, 100_000),
        metavar="N|auto",
        help="Number of workers on the cluster.  [default: auto, as many as there is room for]",
    ),
    click.option(
        "--gpus",
        type=float,
        metavar="F",
        help="GPUs of each worker; several share one below 1, such as 0.5.  [default: 1 if the engine and the cluster have any]",
    ),
    click.option(
        "--cpus",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="CPUs of each worker, and threads of its engine.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(1, 100),
        default=2,
        show_default=True,
        help="Give up what kills a worker, alone in it, this many times.",
    ),
)
"""Where a job runs; the fields of RayOptions."""

force = click.option(
    "--force", is_flag=True, allow_from_autoenv=False, help="Replace an output that exists."
)  # a variable that is left set would replace files unasked
tile = click.option(
    "--tile", type=click.IntRange(16, 2**16), metavar="PIXELS", help="Process in square tiles of this many input pixels."
)
overlap = click.option(
    "--overlap",
    type=click.IntRange(0, 2**14),
    metavar="PIXELS",
    help="Number of input pixels that neighboring tiles share.  [default: the network's radius]",
)


def _check_bundle(ctx: click.Context, param: click.Parameter, given: str) -> Location:
    """Refuses what is no bundle by its name or kind before anything else of the command line is looked at."""
    location = as_bundle_location(given)
    if isinstance(location, str) or ctx.resilient_parsing:
        return location
    is_named_as_one = location.suffix.lower() == ".dni" or not location.suffix
    if location.exists() or not is_named_as_one:
        check_bundle_folder(location)
    return location


# click calls it before it misses an option: that this is no bundle is more to the point. Eager it would come before -h.
bundle = click.argument("bundle", type=click.Path(), callback=_check_bundle)


def output_option(
    text: str, *, required: bool = True, default: str | None = None, kind: click.Path = PATH_TYPE
) -> Callable[[Function], Function]:
    """Makes the option -o/--output with its help text."""
    # From click 8.3 on, a default of None counts as a value, and a required option as given.
    defaults: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option("-o", "--output", type=kind, required=required, help=text, **defaults)


def parse_members(arguments: tuple[str, ...]) -> dict[str, Path]:
    """Parses a family of checkpoints.

    Args:
        arguments: NAME=PATH, or a PATH whose stem is the name; each PATH may be PATH#ENTRY.

    Returns:
        Member name -> path with its entry, in the order of the arguments.

    Raises:
        UsageError: A name without a file, or a name that is given twice.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists() or "/" in name:
            name, path = Path(split_entry(argument)[0]).stem, argument
        if not path:
            raise UsageError(f"{escape_name(argument)!r} names a member and no file; write NAME=PATH.")
        if Path(path, MANIFEST_FILE_NAME).is_file():
            raise UsageError(
                f"{escape_name(path)} is a bundle already, and members are files of weights; `run` and `serve` take it."
            )
        if name in paths:
            raise UsageError(f"Two members are named {escape_name(name)!r}; write NAME=PATH to give each its own name.")
        paths[name] = as_local_path(path, "a member")
    return paths


def parse_value_range(text: str | None) -> tuple[float, float] | None:
    """Parses LO..HI, the values that stand for black and white.

    Raises:
        UsageError: The text is no such range.
    """
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


def format_engine(name: str, reason: str) -> str:
    """Formats an engine and the reason why it was chosen on one line."""
    return f"{name} ({reason})" if reason else name


def format_coefficients(alpha: Mapping[str, float]) -> str:
    """Formats members with their shares: psnr=0.35, gan=0.65."""
    return ", ".join(f"{escape_name(name)}={share:.6g}" for name, share in alpha.items())


def format_rules(rules: Iterable[Any]) -> str | None:
    """Formats rules with the number of weights that each applies to; None where there is no rule."""
    return "; ".join(f"{escape_name(rule.weights)}={escape_name(rule.alpha)} ({rule.count} weights)" for rule in rules) or None
