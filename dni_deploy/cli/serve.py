"""`dni-deploy serve`: a page with the picture live and a slider for alpha."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
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
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at; another one needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="The port; 0 takes a free one.")
@click.option(
    "--alpha",
    metavar="ALPHA",
    help="To begin with, or over time: a timeline, a curve or a file, as for video.  [default: equal shares]",
)
@click.option("--plane", type=options.PATH_TYPE, help="A JSON file with the members' places in the control plane.")
@click.option("--slew", type=float, help="How far a share may move in a second.  [default: at once]")
@click.option("--osc", type=click.IntRange(1, 65535), help="Take alpha by OSC on this UDP port, too.")
@click.option("--midi", metavar="CC", help="Take alpha by MIDI, too: 1, 1@NAME of the input, or 20=psnr,21=gan.")
@click.option("--lines", is_flag=True, callback=_as_stdin, help="Take alpha by lines on stdin, too, such as gan=0.7.")
@click.option("--camera", type=click.IntRange(0, 63), help="Show the camera of this number instead of a file.")
@click.option("--size", default="640x360", show_default=True, help="Pictures are made small enough for this.")
@click.option("--quality", type=click.IntRange(1, 95), default=80, show_default=True, help="Of the JPEGs that the page gets.")
@click.option("--fps", type=click.FloatRange(1, 240), default=60.0, show_default=True, help="The most pictures in a second.")
@click.option("--token", help="Your own secret for the address, such as for OBS; better as DNI_SERVE_TOKEN.  [default: random]")
@click.option("--open/--no-open", "open_page", default=None, help="Show the page in the browser.  [default: on a desktop]")
@options.session_options
@options.group_rule_options
def command(
    command_output: CommandOutput,
    bundle: Path,
    source: Path | None,
    host: str,
    port: int,
    alpha: str | None,
    listeners: Any,
    camera: int | None,
    size: str,
    quality: int,
    fps: float,
    token: str | None,
    open_page: bool | None,
    session_options: Any,
) -> None:
    """Show a video, a picture or a camera live in the browser, with a slider.

    The address is printed on stdout; it carries a secret, and only this machine can open it. With `&view=clean` it shows
    nothing but the picture, as for a browser source in OBS. Ctrl-C ends it.
    """
    verb = import_optional("dni_deploy.api.serve").serve

    def on_started(serving: ServeStatus, page: PageServer) -> None:
        if serving.warning:
            click.echo(f"dni-deploy: warning: {serving.warning}", err=True)
        if not command_output.print_result("serve", serving.to_json()):
            click.echo(serving.url)
            if not command_output.quiet:
                told = f"{serving.source}; {options.format_coefficients(serving.alpha)}; {options.format_engine(serving.engine, serving.engine_why)}"
                click.echo(f"{told}. Ctrl-C ends it.", err=True)
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
        size=size,
        quality=quality,
        fps=fps,
        token=token,
        options=session_options,
        on_started=on_started,
    )
    if not command_output.quiet:
        click.echo(f"{report.frames} pictures in {format_seconds(report.seconds)}", err=True)


def _has_desktop() -> bool:
    """Whether a person sits at this terminal, with a screen for a browser."""
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and sys.stdout is not None and sys.stdout.isatty()
