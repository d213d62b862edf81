"""`dni-deploy filter`: raw video from a pipe into a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.completers import complete_alpha
from dni_deploy.cli.output import CommandOutput, format_seconds
from dni_deploy.errors import escape_name
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "filter",
    """
    dni-deploy filter sr.dni --alpha 0.35 < in.y4m > out.y4m
    dni-deploy filter sr.dni --format rgb24 --size 640x360 --fps 25 --alpha "0:gan=0, 2.5s:gan=1" < in.rgb > out.rgb
    dni-deploy filter sr.dni --alpha gan=0 --osc 9123 --alpha-log show.log < in.y4m > out.y4m
    """,
)
@options.bundle
@click.option(
    "--format",
    type=click.Choice(["y4m", "rgb24", "bgr24", "rgba", "bgra", "gray", "rgb48", "gray16"]),
    default="y4m",
    show_default=True,
    help="Format of stdin and stdout: y4m with 8 to 16 bits (4:2:0, 4:2:2, 4:4:4, mono), or bare frames of --size; those of "
    "16 bits are little-endian.",
)
@click.option("--size", metavar="WxH", help="Size of bare frames in pixels, such as 640x360.")
@click.option("--fps", metavar="RATE", help="Frames per second, 25 or 30000/1001, if the stream does not say.")
@click.option(
    "--matrix",
    type=click.Choice(["auto", "709", "601"]),
    default="auto",
    show_default=True,
    help="The color matrix of y4m, which does not say it; auto: 709 from 720 lines on, else 601, for input and output alike.",
)
@click.option(
    "--alpha",
    metavar="ALPHA",
    shell_complete=complete_alpha,
    help='As for run; or alpha over time, "0:gan=0, 2.5s:gan=1"; or a file of keyframes.  [default: the first member alone]',
)
@click.option(
    "--osc",
    metavar="[HOST:]PORT",
    help="Set alpha live by OSC on this UDP port of loopback, or of HOST; 0: any free port.",
)
@options.osc_map
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Set alpha live by HTTP on this TCP port of loopback, or of HOST; 0: any free port.",
)
@click.option(
    "--token",
    "http_token",
    metavar="SECRET",
    help="The secret that requests to --http carry; better as DNI_FILTER_TOKEN.  [default: random, and printed]",
)
@click.option(
    "--no-token",
    "requires_http_token",
    is_flag=True,
    callback=lambda ctx, parameter, is_set: not is_set,
    help="Let every program on this machine set alpha by --http.",
)
@click.option("--midi", metavar="CONTROLLER[@PORT]", help="Set alpha live by MIDI: 1, 1@PORT, or 20=psnr,21=gan.")
@click.option(
    "--plane", type=options.PATH_TYPE, help="A JSON file with the members' positions, for live points of a control plane."
)
@click.option(
    "--slew", type=click.FloatRange(0, min_open=True), help="Limit of the change of a live share, per second.  [default: none]"
)
@click.option(
    "--alpha-log", type=options.PATH_TYPE, help="Write alpha and generation of every frame to this file; --alpha can replay it."
)
@click.option(
    "--stamp/--no-stamp", default=True, help="Write both into the header line of each y4m frame, too, as a comment (default)."
)
@options.session_options
@options.extrapolate
@options.group_rule_options
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    format: str,
    size: str | None,
    fps: str | None,
    matrix: str,
    alpha: str | None,
    listeners: Any,
    alpha_log: Path | None,
    stamp: bool,
    session_options: Any,
    force: bool,
) -> None:
    """Filter raw video between other programs: stdin to stdout.

    Nothing but video is written to stdout; notes, and the object of --json, go to stderr. If the reader of stdout closes
    the pipe, the exit code is 0. If the stream ends in the middle of a frame, the complete frames are processed and the
    exit code is 8.
    """

    def print_note(sentence: str) -> None:
        if not command_output.quiet and not command_output.json:
            click.echo(f"dni-deploy: {escape_name(sentence, 1000)}", err=True)

    verb = import_optional("dni_deploy.api.filter").filter
    with import_optional("dni_deploy.video_io.pipe").standard_streams() as (source, sink):
        report = verb(
            bundle,
            source,
            sink,
            format=format,
            size=size,
            fps=fps,
            matrix=matrix,
            alpha=alpha,
            listeners=listeners,
            alpha_log=alpha_log,
            force=force,
            stamp=stamp,
            options=session_options,
            note=print_note,
        )
    if command_output.print_result("filter", report.to_json(), on_one_line=True, to_stderr=True):
        return
    pace = f", {report.frames / report.seconds:.0f} frames per second" if report.seconds else ""
    closed = "; their reader closed the pipe" if report.closed_by == "sink" else ""
    print_note(
        f"{report.frames} frames {report.size} to {report.output_size} in {format_seconds(report.seconds)}{pace}, "
        f"alpha {options.format_coefficients(report.alpha)}, {report.engine}{closed}."
    )
