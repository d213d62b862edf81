"""`dni-deploy serve`: a web page with live frames and a slider for alpha."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.completers import complete_alpha
from dni_deploy.cli.output import CommandOutput, format_seconds
from dni_deploy.utils.optional_packages import import_optional

if TYPE_CHECKING:
    from dni_deploy.api.serve import ServeStatus
    from dni_deploy.webui.server import PageServer


def _as_stdin(ctx: click.Context, param: click.Parameter, is_set: bool) -> IO[str] | None:
    """The stream that --lines stands for."""
    return sys.stdin if is_set else None


@options.command(
    "serve",
    """
    dni-deploy serve sr.dni
    dni-deploy serve sr.dni in.mp4 --size 640x360 --open
    dni-deploy serve sr.dni in.png --port 0 --alpha psnr=0.35,gan=0.65
    dni-deploy serve sr.dni in.mp4 --alpha "0:gan=0, 4s:gan=1; loop" --osc 9123
    """,
)
@options.bundle
@click.argument("source", required=False, type=options.PATH_TYPE)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="localhost",
    show_default=True,
    help="The address to listen on; any but loopback needs --token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=8765,
    show_default=True,
    help="The TCP port; 0: any free port.",
)
@click.option(
    "--alpha",
    metavar="ALPHA",
    shell_complete=complete_alpha,
    help="The first alpha, or alpha over time: a timeline, a curve or a file, as for video.  [default: equal shares]",
)
@click.option("--plane", type=options.PATH_TYPE, help="A JSON file with the members' positions in the control plane.")
@click.option(
    "--slew", type=click.FloatRange(0, min_open=True), help="Limit of the change of a share, per second.  [default: none]"
)
@click.option("--osc", metavar="[HOST:]PORT", help="Set alpha by OSC on this UDP port of loopback, or of HOST, too.")
@options.osc_map
@click.option("--midi", metavar="CONTROLLER[@PORT]", help="Set alpha by MIDI, too: 1, 1@PORT, or 20=psnr,21=gan.")
@click.option("--lines", is_flag=True, callback=_as_stdin, help="Set alpha by lines on stdin, too, such as gan=0.7.")
@click.option("--camera", type=click.IntRange(0, 63), help="Number of the camera to show instead of a file, from 0.")
@click.option(
    "--size", metavar="WxH", default="640x360", show_default=True, help="Frames are scaled down to fit this size in pixels."
)
@click.option(
    "--quality",
    type=click.IntRange(1, 95),
    default=80,
    show_default=True,
    help="Quality of the JPEG images that the page gets.",
)
@click.option(
    "--fps",
    metavar="RATE",
    type=click.FloatRange(1, 240),
    default=60.0,
    show_default=True,
    help="Maximum number of frames per second.",
)
@click.option(
    "--token",
    metavar="SECRET",
    help="A secret of your own for the address, such as for OBS; better set as DNI_SERVE_TOKEN.  [default: random]",
)
@click.option(
    "--alpha-log",
    type=options.PATH_TYPE,
    help="Write alpha and generation of every frame that is shown to this file; --alpha of `video` can replay it.",
)
@click.option("--open/--no-open", "open_page", default=None, help="Open the page in the browser.  [default: on a desktop]")
@options.session_options
@options.group_rule_options
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    source: Path | None,
    host: str,
    port: int,
    alpha: str | None,
    listeners: Any,
    camera: int | None,
    preview: Any,
    token: str | None,
    open_page: bool | None,
    alpha_log: Path | None,
    force: bool,
    session_options: Any,
) -> None:
    """Show a video, an image or a camera live in the browser, with a slider.

    The address is printed on stdout; it carries a secret, and only this machine can open it. With `&view=clean` the page
    shows nothing but the frames, as for a browser source in OBS. Ctrl-C ends it.
    """
    verb = import_optional("dni_deploy.api.serve").serve

    def on_started(serving: ServeStatus, page: PageServer) -> None:
        if serving.warning:
            click.echo(f"dni-deploy: warning: {serving.warning}", err=True)
        if not command_output.print_result("serve", serving.to_json(), on_one_line=True):
            click.echo(serving.url)
            if not command_output.quiet:
                for sentence in serving.notes:
                    click.echo(f"dni-deploy: {sentence}", err=True)
                alpha = options.format_coefficients(serving.alpha)
                engine = options.format_engine(serving.engine, serving.engine_reason)
                click.echo(f"{serving.source}; {alpha}; {engine}. Ctrl-C ends it.", err=True)
        if sys.stdout is not None:
            sys.stdout.flush()
        if open_page or (open_page is None and _has_desktop()):
            webbrowser.open(serving.url)

    report = verb(
        bundle,
        source,
        host=host,
        port=port,
        alpha=alpha,
        listeners=listeners,
        camera=camera,
        preview=preview,
        token=token,
        alpha_log=alpha_log,
        force=force,
        options=session_options,
        on_started=on_started,
    )
    summary = {"frames": report.frames, "seconds": report.seconds}
    if not command_output.print_result("serve", summary, on_one_line=True) and not command_output.quiet:
        click.echo(f"{report.frames} frames in {format_seconds(report.seconds)}", err=True)


def _has_desktop() -> bool:
    """Whether a person is at this terminal, with a screen for a browser."""
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and sys.stdout is not None and sys.stdout.isatty()
