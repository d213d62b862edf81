"""`dni-deploy bench`: the time of an alpha change and of a frame."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary, print_table
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "bench",
    """
    dni-deploy bench sr.dni
    dni-deploy bench sr.dni --plot bench.svg -o bench.json
    dni-deploy bench sr.dni --shape 1x3x256x256 --json
    dni-deploy bench sr.dni --video in.mp4 --repeats 300
    """,
)
@options.bundle
@click.option(
    "--shape", metavar="NxCxHxW", help="Shape of the input.  [default: 1x3x256x256, or 1x3x64x64 if the network enlarges]"
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 10_000),
    help="Number of rounds that are timed, or of frames with --video.  [default: 20, or 200]",
)
@click.option("--video", type=options.PATH_TYPE, metavar="VIDEO", help="Time the stages of the frames of this video.")
@click.option("-o", "--output", type=options.PATH_TYPE, help="Write the result as JSON to this file.")
@click.option("--plot", type=options.PATH_TYPE, help="Write a plot of the result to this file: .png, .svg or .pdf.")
@click.option(
    "--build-baselines", is_flag=True, help="Build the TensorRT plans of the baselines first, unless the bundle has them."
)
@options.threads
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    shape: str | None,
    repeats: int | None,
    video: Path | None,
    output: Path | None,
    plot: Path | None,
    build_baselines: bool,
    threads: int,
    force: bool,
) -> None:
    """Time an alpha change, the first frame after it and a steady frame, against the other ways to change alpha.

    All modes are timed in one run, interleaved, on this machine. With --video: decoding, colors, change, network, frame
    and encoding over the frames of a video, how many frames are under way at once, and the delay of a slider.
    """
    if video is not None:
        if shape is not None or output is not None or plot is not None or build_baselines:
            raise UsageError(
                "--video takes its shape from the video, and prints; --shape, --output, --plot and --build-baselines are for the "
                "other modes."
            )
        _bench_video(command_output, bundle, video, repeats, threads)
        return
    chosen = {} if repeats is None else {"repeats": repeats}
    size = _parse_shape(shape)
    verb = import_optional("dni_deploy.api.bench").bench
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            shape=size,
            build_baselines=build_baselines,
            threads=threads,
            output=output,
            plot=plot,
            force=force,
            progress=progress,
            **chosen,
        )
    if command_output.print_result("bench", report.to_json()):
        return
    print_summary(
        {
            "bundle": report.bundle,
            "network": f"{report.architecture}, {report.parameters:,} numbers blended, {report.members} members",
            "input": "x".join(map(str, report.shape)),
            "rounds": report.rounds,
            "threads": report.threads,
            **report.machine,
        }
    )
    click.echo("\nmilliseconds, medians of one interleaved run:")
    headers = ["", "change", "first frame", "both", "steady", "pixels", "memory MB", "how"]
    rows = [
        [
            row.name,
            *(_format_ms(value) for value in (row.change_ms, row.first_ms, row.changed_ms, row.steady_ms, row.pixels_ms)),
            _format_ms(row.memory_mb),
            row.title,
        ]
        for row in report.rows
    ]
    print_table(headers, rows)
    click.echo()
    print_table(["ratio", "median"], [(name, f"{value:.3g}") for name, value in report.ratios.items()])
    reasons: dict[str, list[str]] = {}
    for name, reason in report.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        click.echo(f"\nskipped: {', '.join(names)}: {escape_name(reason, 1000)}")
    for path in (output, plot):
        if path is not None:
            print_summary({"wrote": path})


def _bench_video(command_output: CommandOutput, bundle: Path, video_path: Path, frame_count: int | None, threads: int) -> None:
    chosen = {} if frame_count is None else {"frames": frame_count}
    verb = import_optional("dni_deploy.api.bench").bench_video
    with command_output.show_progress() as progress:
        report = verb(bundle, video_path, threads=threads, progress=progress, **chosen)
    if command_output.print_result("bench", report.to_json()):
        return
    print_summary(
        {
            "bundle": report.bundle,
            "video": f"{report.video}, {'x'.join(map(str, report.size))} to {'x'.join(map(str, report.output_size))}",
            "frames": report.frames,
            "engine": report.engine,
            "frame with a change / without": f"{report.changed_over_steady:.3g}, median of pairs",
            "frames per second, overlapped": f"{report.stream_fps:.3g}, {report.frames_in_flight:.2g} under way on average",
        }
    )
    click.echo("\nmilliseconds per frame, one stage after the other:")
    print_table(
        ["", "p50", "p95", "p99"],
        [[stage.name, _format_ms(stage.p50), _format_ms(stage.p95), _format_ms(stage.p99)] for stage in report.stages],
    )


def _format_ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _parse_shape(text: str | None) -> tuple[int, ...] | None:
    """NxCxHxW as four numbers. Raises UsageError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape {escape_name(text)} is not NxCxHxW, such as 1x3x256x256.")
    return tuple(int(part) for part in parts)
