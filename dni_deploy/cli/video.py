"""`dni-deploy video`: a video through the network, with alpha over time and for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.completers import complete_alpha
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary
from dni_deploy.cli.standard_streams import STANDARD_STREAM, resolve_standard_streams
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.optional_packages import import_optional

STDOUT_SUFFIX = ".mkv"
"""The container of what goes to stdout: it holds nearly everything, and is read from a pipe."""


def parse_encoder_options(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Parses KEY=VALUE; later ones win.

    Raises:
        UsageError: A text has no key or no value.
    """
    chosen = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"--encoder-option {escape_name(text)} is not KEY=VALUE, such as tune=film.")
        chosen[key] = value
    return chosen


def _parse_streams(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entry.isdecimal() for entry in entries):
        raise UsageError(f"--streams {escape_name(text)} is no list of indices, such as 0,1,3.")
    return tuple(int(entry) for entry in entries)


@options.command(
    "video",
    """
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.35
    dni-deploy video sr.dni in.mkv -o out.mkv --alpha "0:gan=0, 2.5s:gan=1, 4s:gan=0.3"
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.2 --alpha-map matte.mp4 --alpha-map-to 0.9
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha show.json --crf 20 --preset medium --alpha-log played.jsonl
    dni-deploy video sr.dni in.mp4 -o try.mp4 --alpha 0.35 --preview 2s@1:23
    dni-deploy video sr.dni a.mp4 b.mp4 -o out/ --alpha 0.35
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.35 --shard 1/4
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha show.json --ray 10.0.0.5:6379 --cpus 8
    dni-deploy video sr.dni frames/ -o out.mp4 --alpha 0.35 --fps 24
    dni-deploy video sr.dni in.mp4 -o frames/%05d.png --alpha 0.35
    dni-deploy video sr.dni in.mov -o out.mov --alpha 0.35 --codec prores_ks
    dni-deploy video sr.dni in.mp4 -o out.mp4 --alpha 0.35 --codec libx265 --pix-fmt yuv420p10le --encoder-option tune=grain
    """,
)
@options.bundle
@click.argument("videos", metavar="IN...", nargs=-1, required=True, type=options.PATH_TYPE)
@options.output_option(
    "The video to write: .mp4, .mov, .mkv, .webm, .avi, .ts, .mxf, .gif, .webp, ...; pictures, out/%05d.png; a folder, for several; or -."
)
@click.option(
    "--alpha",
    metavar="ALPHA",
    shell_complete=complete_alpha,
    help='An alpha as for run; or alpha over time, "0:gan=0, 2.5s:gan=1"; or a file of keyframes, .json or .csv; '
    "or an alpha log, .jsonl. Required unless --alpha-map (two members) or --alpha-preset supplies it.",
)
@options.alpha_map_options
@options.session_options
@options.tile
@options.overlap
@options.extrapolate
@options.group_rule_options
@click.option(
    "--codec",
    default="",
    metavar="NAME",
    help="The encoder, by FFmpeg's name, such as h264_nvenc.  [default: libx264, or what suits the container]",
)
@click.option(
    "--crf", type=click.IntRange(0, 63), help="Quality of the encoder, lower is better.  [default: 18 for libx264 and libx265]"
)
@click.option("--preset", metavar="NAME", help="Speed preset of the encoder.  [default: veryfast for libx264 and libx265]")
@click.option(
    "--pix-fmt",
    "pixel_format",
    metavar="FORMAT",
    help="Pixel format of the output, by FFmpeg's name, such as yuv420p10le.  [default: the encoder's nearest to the source's]",
)
@click.option(
    "--encoder-option",
    "encoder_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_encoder_options,
    help="An option of the encoder by FFmpeg's name, such as tune=film or b=8M; tag=hvc1 names the codec in the file. Repeatable.",
)
@click.option("--hwaccel", metavar="NAME", help="The hardware that decodes, such as cuda.  [default: the CPU]")
@click.option(
    "--streams",
    callback=_parse_streams,
    metavar="INDICES",
    help="Streams to keep, such as 0,1,3: sound, subtitles, and the video to process if there are several.  [default: all "
    "but other videos and data]",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="WHAT",
    help="Leave out audio, subtitles, data, attachments, or the stream of this index. Repeatable.",
)
@click.option("--from", "start", metavar="TIME", help="Begin at this time, such as 1:23, 2.5s or 75f (a frame).")
@click.option("--to", "end", metavar="TIME", help="Stop before this time.")
@click.option("--preview", metavar="DURATION@TIME", help="Only this much from there on, such as 2s@1:23.")
@click.option("--fps", metavar="RATE", help="Frames per second of pictures, such as 24 or 30000/1001.  [default: 25]")
@click.option("--deinterlace", is_flag=True, help="Make whole frames of interlaced ones, as many as there were.")
@click.option(
    "--segment",
    "segment_frames",
    type=click.IntRange(1, 100_000),
    default=250,
    show_default=True,
    help="Number of frames per segment: a stopped run resumes after its last complete segment.",
)
@click.option("--resume/--fresh", "resume", default=True, help="Resume a run that was stopped (default), or start again.")
@click.option(
    "--shard",
    metavar="K/N|join",
    help="Make only the K-th of N shares of the segments, for job arrays and render farms; when all are made, join puts them "
    "together.",
)
@options.ray_options
@click.option("--alpha-log", type=options.PATH_TYPE, help="Write the time, generation and alpha of every frame to this file.")
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    videos: tuple[Path, ...],
    output: Path,
    alpha: str | None,
    alpha_map: Any,
    session_options: Any,
    tile: int | None,
    overlap: int | None,
    encoder: Any,
    input_options: Any,
    job: Any,
    alpha_log: Path | None,
    force: bool,
) -> None:
    """Process a video, with one alpha, with alpha over time, or with an alpha for each pixel.

    IN is a video, a folder of pictures, their names with a number (%05d.png), or - for stdin, which is read to its end first.
    Several go into a folder. -o - writes Matroska to stdout.

    Sound, subtitles, chapters and every timestamp are kept. The output appears when it is complete; a run that was stopped
    resumes when the same command is given again. If frames of the video are damaged, the others are processed and the exit
    code is 8.
    """
    if output == STANDARD_STREAM and command_output.json:
        raise UsageError("--json prints on stdout, where -o - writes the video; leave one of them out.")
    if alpha_log is not None and len(videos) > 1:
        raise UsageError("--alpha-log is the log of one video; process each apart.")
    with (
        resolve_standard_streams(videos, output, "a video", STDOUT_SUFFIX) as (sources, target),
        command_output.show_progress() as progress,
    ):
        arguments: dict[str, Any] = {
            "alpha_map": alpha_map,
            "options": session_options,
            "tile": tile,
            "overlap": overlap,
            "encoder": encoder,
            "input_options": input_options,
            "fresh": not job.resume,
            "alpha_log": alpha_log,
            "force": force,
            "progress": progress,
        }
        if job.shard is not None:
            if job.ray is not None:
                raise UsageError("--ray and --shard both share the work out; give one of them.")
            if len(sources) > 1 or STANDARD_STREAM in (*videos, output):
                raise UsageError("--shard is for one video from a file into a file; give each a command of its own.")
            shard_function = import_optional("dni_deploy.api.video_shards").video_shard
            reports = [shard_function(bundle, sources[0], target, alpha, shard=job.shard, **arguments)]
        elif job.ray is not None and STANDARD_STREAM in (*videos, output):
            raise UsageError("--ray is for videos in files: no other machine sees what is piped here.")
        elif len(sources) > 1 or target.is_dir():
            ray_options = None if job.ray is None else job
            several = import_optional("dni_deploy.api.videos").videos
            reports = several(bundle, sources, target, alpha, ray_options=ray_options, **arguments)
        elif job.ray is not None:
            on_cluster = import_optional("dni_deploy.api.video_cluster").video_on_cluster
            reports = [on_cluster(bundle, sources[0], target, alpha, ray_options=job, **arguments)]
        else:
            reports = [import_optional("dni_deploy.api.video").video(bundle, sources[0], target, alpha, **arguments)]
    if len(videos) == 1 and command_output.print_result("video", reports[0].to_json()):
        return
    if len(videos) > 1 and command_output.print_result("video", {"videos": [report.to_json() for report in reports]}):
        return
    for report in reports:
        _print_report(report, has_summary=output != STANDARD_STREAM)


def _print_report(report: Any, *, has_summary: bool) -> None:
    if has_summary:
        new_frames = report.frames - report.resumed_frames
        took = f"{format_seconds(report.seconds)}, {new_frames / report.seconds:.1f} frames/s"
        print_summary({**(_summarize_shard(report) if hasattr(report, "shard") else _summarize_video(report)), "took": took})
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


def _summarize_video(report: Any) -> dict[str, Any]:
    return {
        "wrote": report.output,
        "size": f"{report.width}x{report.height}, {report.codec}",
        "frames": f"{report.frames}, {report.resumed_frames} of them from the earlier run"
        if report.resumed_frames
        else report.frames,
        "engine": options.format_engine(report.engine, report.engine_reason),
    }


def _summarize_shard(report: Any) -> dict[str, Any]:
    return {
        "shard": report.shard,
        "segments": f"{report.segments}, in {report.folder}",
        "frames": f"{report.frames} of {report.video_frames}, {report.resumed_frames} of them from an earlier run",
    }
