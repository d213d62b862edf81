"""`dni-deploy video`: a film through the network, alpha over time and over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "video",
    """
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.35
    dni-deploy video sr.dni in.mkv -o out.mkv --alpha "0:gan=0, 2.5s:gan=1, 4s:gan=0.3"
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.2 --alpha-map matte.mp4 --alpha-map-to 0.9
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha show.json --crf 20 --preset medium --alpha-log played.jsonl
    """,
)
@options.bundle
@click.argument("video", metavar="IN", type=options.PATH_TYPE)
@options.output_option("The film to write: .mp4, .m4v, .mov, .mkv or .webm.")
@click.option(
    "--alpha",
    metavar="ALPHA",
    help='An alpha as for run; or alpha over time, "0:gan=0, 2.5s:gan=1"; or the file of one, .json or .csv; or an alpha log, .jsonl. '
    "Needed, except with an alpha map between two members.",
)
@options.alpha_map_options
@options.session_options
@options.tile
@options.overlap
@options.extrapolate
@options.group_rule_options
@click.option("--codec", default="libx264", show_default=True, metavar="NAME", help="An encoder of FFmpeg, such as h264_nvenc.")
@click.option("--crf", type=click.IntRange(0, 63), help="Quality, lower is better.  [default: 18 for libx264 and libx265]")
@click.option("--preset", metavar="NAME", help="Speed of the encoder.  [default: veryfast for libx264 and libx265]")
@click.option("--hwaccel", metavar="NAME", help="Decode on hardware, such as cuda.")
@click.option(
    "--segment",
    "segment_frames",
    envvar="DNI_VIDEO_SEGMENT",  # by the option's name, as those of all others
    type=click.IntRange(1, 100_000),
    default=250,
    show_default=True,
    help="Frames of a segment: a stopped run goes on behind its last whole one.",
)
@click.option("--resume/--fresh", "resume", default=True, help="Go on with a run that was stopped (default), or start anew.")
@click.option("--alpha-log", type=options.PATH_TYPE, help="Write every frame's time, generation and alpha here.")
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    video: Path,
    output: Path,
    alpha: str | None,
    alpha_map: Any,
    session_options: Any,
    tile: int | None,
    overlap: int | None,
    encoder: Any,
    hwaccel: str | None,
    resume: bool,
    alpha_log: Path | None,
    force: bool,
) -> None:
    """Process a film, with one alpha, with alpha over time, or with an alpha for each pixel.

    Sound, subtitles, chapters and every timestamp are kept. OUT appears when it is complete; a run that is stopped goes on
    when the same command is given again. Where frames of the film are damaged, the others are done and the exit code is 8.
    """
    verb = import_optional("dni_deploy.api.video").video
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            video,
            output,
            alpha,
            alpha_map=alpha_map,
            options=session_options,
            tile=tile,
            overlap=overlap,
            encoder=encoder,
            hwaccel=hwaccel,
            fresh=not resume,
            alpha_log=alpha_log,
            force=force,
            progress=progress,
        )
    if command_output.print_result("video", report.to_json()):
        return
    done = report.frames - report.resumed_frames
    print_summary(
        {
            "wrote": report.output,
            "size": f"{report.width}x{report.height}, {report.codec}",
            "frames": f"{report.frames}, {report.resumed_frames} of them by the run before"
            if report.resumed_frames
            else report.frames,
            "engine": options.format_engine(report.engine, report.engine_why),
            "took": f"{format_seconds(report.seconds)}, {done / report.seconds:.1f} frames/s",
        }
    )
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
