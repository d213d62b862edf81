"""`dni-deploy run`: images through the network at one alpha, or with an alpha for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary, print_table
from dni_deploy.cli.standard_streams import STANDARD_STREAM, resolve_standard_streams
from dni_deploy.errors import DniError, UsageError
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX
from dni_deploy.imaging.image_tasks import FORMAT_NAMES, SKIP_REASONS
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

MAX_LISTED_NAMES = 5
"""Of the files that were left out for one reason."""

MAX_LISTED_IMAGES = 1000
"""Rows of images; a table of 100,000 takes longer to lay out than many of them to process."""


def _parse_size(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    size: tuple[int, int] = import_optional("dni_deploy.video_io.raw_formats").parse_size(text)
    return size


@options.command(
    "run",
    """
    dni-deploy run sr.dni in.png -o out.png --alpha 0.35
    dni-deploy run sr.dni photos/ -o done/ --alpha psnr=0.35,gan=0.65
    dni-deploy run sr.dni photos/ -o done/ --alpha 0.35 -r --resume
    dni-deploy run sr.dni photos/ -o done/ --alpha 0.35 -r --shard 1/4
    dni-deploy run sr.dni photos/ -o done/ --alpha 0.35 -r --resume --ray auto --workers 16 --cpus 4
    dni-deploy run sr.dni photos/ -o done/ --alpha 0.35 --format jpg --quality 90 --suffix _x4
    dni-deploy run sr.dni in.png -o out.png --alpha 0.35 --outscale 2
    dni-deploy run sr.dni in.png -o out.png --slider 0.5
    dni-deploy run sr.dni large.png -o out.png --alpha 0.5 --tile 512
    dni-deploy run sr.dni in.png -o out.png --alpha 0.2 --alpha-map face.png --alpha-map-to 0.9
    dni-deploy run sr.dni in.png -o out.png --alpha 0.5 --alpha-for 'norm:*=0.2' --alpha-for 'body.*=0.2..0.8'
    dni-deploy run sr.dni - -o - --format png --alpha 0.35 < in.jpg > out.png
    """,
)
@options.bundle
@click.argument("inputs", nargs=-1, required=True, type=options.PATH_TYPE)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    required=True,
    help="The image to write, whose suffix is its format; or a folder, such as done/; or - for stdout.",
)
@options.make_alpha_option("--alpha-map (two members) or --alpha-preset")
@options.slider
@click.option("-r", "--recursive", is_flag=True, help="Also process the folders in a folder, and keep their structure.")
@click.option(
    "--resume", is_flag=True, help="Go on with a run that was stopped: keep what it has done, do what is missing or has failed."
)
@click.option("--skip-existing", is_flag=True, help="Leave out images whose output exists, whoever made it.")
@click.option(
    "--max-failures",
    metavar="N|P%",
    help="Stop when more images fail.  [default: never; but if the first 50 all fail with one sentence]",
)
@click.option(
    "--shard",
    metavar="K/N|join",
    help="Process only the K-th of N shares of the images, for job arrays and render farms; join checks that all are there.",
)
@click.option(
    "-f",
    "--format",
    "--ext",
    "file_format",
    type=click.Choice(FORMAT_NAMES, case_sensitive=False),
    help="Format of the outputs in a folder, and of stdout; same is each input's own.  [default: same]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    metavar="1..100",
    help="Quality of JPEG, or of WebP, which is lossless without it.  [default: 95 for JPEG]",
)
@click.option("--suffix", metavar="SUFFIX", default="", help="Text after the names of outputs in a folder, such as _x4.")
@click.option("--outscale", type=float, metavar="N", help="Resize the output to N times the size of the input, by Lanczos.")
@click.option(
    "--size", metavar="WxH", callback=_parse_size, help="Resize the output to this size in pixels, such as 1920x1080."
)
@click.option(
    "--strip", is_flag=True, help="Leave out EXIF with its GPS position, XMP, IPTC, resolution and texts; the colors stay."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="The most pixels of an output.  [default: what the free memory holds; DNI_MAX_PIXELS sets it for every command]",
)
@options.alpha_map_options
@options.alpha_map_error
@options.session_options
@options.tile
@options.overlap
@options.extrapolate
@options.group_rule_options
@options.save_alpha_preset
@options.ray_options
@options.force
def command(
    command_output: CommandOutput,
    bundle: Any,
    inputs: tuple[Path, ...],
    output: str,
    alpha: Any,
    alpha_map: Any,
    session_options: Any,
    file_options: Any,
    job: Any,
    tile: int | None,
    overlap: int | None,
    save_preset: Path | None,
    force: bool,
) -> None:
    """Process images, or folders of them, at one alpha, or with an alpha for each pixel.

    Images are turned upright. Transparency, what the colors mean, EXIF, XMP, IPTC, resolution and texts are kept as far as
    the output's format holds them; a note names the rest. An output in a folder whose format cannot hold the image is
    written as PNG, with a note.

    An image that fails is named at once, the others are still processed, and the exit code is 8. Outputs appear complete. A run
    into a folder that was stopped goes on when the same command is given with --resume; `dni-deploy status` shows how far it is.
    """
    is_stdout = Path(output) == STANDARD_STREAM
    if is_stdout and command_output.json:
        raise UsageError("--json prints on stdout, where -o - writes the image; leave one of them out.")
    stdout_suffix = _choose_stdout_suffix(inputs, file_options.file_format) if is_stdout else ""
    verb = import_optional("dni_deploy.api.run").run
    failure: DniError | None = None
    with (
        resolve_standard_streams(inputs, Path(output), "an image", stdout_suffix) as (sources, stdout_path),
        command_output.show_progress() as progress,
        _report_stop(command_output, progress) as run_progress,
    ):
        try:
            report = verb(
                bundle,
                sources,
                stdout_path if is_stdout else output,
                alpha,
                alpha_map=alpha_map,
                options=session_options,
                file_options=file_options,
                tile=tile,
                overlap=overlap,
                save_preset=save_preset,
                force=force,
                job=job,
                progress=run_progress,
                report_failure=run_progress.report_failure,
            )
        except DniError as error:
            if error.report is None:
                raise
            report, failure = error.report, error
    if not command_output.print_result("run", report.to_json()):
        _print_report(report, is_stdout)
    if failure is not None:
        raise failure


def _choose_stdout_suffix(inputs: Sequence[Path], file_format: str | None) -> str:
    if len(inputs) != 1 or inputs[0].is_dir():
        raise UsageError("One image goes to stdout; name a folder for several.")
    if file_format not in (None, "same"):
        return f".{file_format}"
    if inputs[0].suffix.lower() not in FORMAT_BY_SUFFIX:
        raise UsageError("Which format? An image on stdout has no name that says it: give --format, such as --format png.")
    return inputs[0].suffix


class _RunProgress:
    """Passes progress and failures on, and counts them."""

    def __init__(self, command_output: CommandOutput, progress: OptionalProgress) -> None:
        self.total = self.finished = self.failed = 0
        self._command_output, self._progress = command_output, progress

    def __call__(self, done: int, total: int, what: str) -> None:
        self.finished, self.total = done, total
        report_progress(self._progress, done, total, what)

    def report_failure(self, failure: Any) -> None:
        self.failed += 1
        self._command_output.print_event("failed", failure.to_json(), f"failed: {failure.error}")


@contextmanager
def _report_stop(command_output: CommandOutput, progress: OptionalProgress) -> Iterator[_RunProgress]:
    """Says how much of a run of several images is done where Ctrl-C or SIGTERM ends it."""
    run_progress = _RunProgress(command_output, progress)
    try:
        yield run_progress
    except (KeyboardInterrupt, SystemExit):
        done, total = run_progress.finished - run_progress.failed, run_progress.total
        if total > 1:
            command_output.print_event(
                "stopped",
                {"done": done, "total": total},
                f"{done} of {total} images are done and whole; give the same command with --resume for the others.",
            )
        raise


def _print_report(report: Any, is_stdout: bool) -> None:
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if is_stdout:
        for row in report.images:
            for note in row.notes:
                click.echo(f"note: {note}", err=True)
        return
    print_summary(
        {
            "alpha": options.format_coefficients(report.alpha),
            "alpha where white": report.alpha_white and options.format_coefficients(report.alpha_white),
            "group rules": options.format_rules(report.rules),
            "engine": options.format_engine(report.engine, report.engine_reason),
            "took": format_seconds(report.seconds) if report.images or report.failed else "nothing to do",
            "failed": f"{len(report.failed)} of {len(report.failed) + len(report.images)} images" if report.failed else None,
            "skipped": _format_skipped(report.skipped),
        }
    )
    if not report.images:
        return
    click.echo()
    rows = [
        (
            row.output,
            f"{row.width}x{row.height}",
            row.tiles,
            format_seconds(row.seconds),
            "; ".join((*row.notes, *([str(row.alpha_map)] if row.alpha_map else []))),
        )
        for row in report.images[:MAX_LISTED_IMAGES]
    ]
    print_table(["wrote", "size", "tiles", "network", "notes"], rows)
    if len(report.images) > len(rows):
        click.echo(f"... and {len(report.images) - len(rows)} more; --json lists all of them.")


def _format_skipped(skipped: Mapping[str, Sequence[str]]) -> str | None:
    """Formats what was left out: how many for each reason, and the first names."""
    parts = []
    for reason, paths in skipped.items():
        names = [Path(path).name for path in paths[:MAX_LISTED_NAMES]]
        listed = ", ".join([*names, *(["..."] if len(paths) > len(names) else [])])
        parts.append(f"{SKIP_REASONS[reason]}: {len(paths)} ({listed})")
    return "; ".join(parts) or None
