"""`dni-deploy tune`: the alpha that is best by a metric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary, print_table
from dni_deploy.errors import escape_name
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.optional_packages import import_optional

if TYPE_CHECKING:
    from dni_deploy.tuning.report import TuneReport

MAX_LISTED_POINTS = 10
"""Maximum number of rows of the Pareto front in the table, evenly spread; --json and --html have all."""


@options.command(
    "tune",
    """
    dni-deploy tune sr.dni in.png --reference clean.png
    dni-deploy tune denoise.dni noisy.png --noise auto
    dni-deploy tune sr.dni photos/ --reference clean/ --metric psnr --metric haarpsi --html tune.html
    dni-deploy tune sr.dni photos/ -r --reference clean/ --ray auto --workers 4
    dni-deploy tune sr.dni in.png --reference clean.png --metric my_metrics:sharpness --plot tune.png
    """,
)
@options.bundle
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True, type=options.PATH_TYPE)
@click.option(
    "--reference",
    type=options.PATH_TYPE,
    multiple=True,
    help="The clean image; with several images, one for each in the same order, or a folder with the same names. Repeatable.",
)
@click.option("-r", "--recursive", is_flag=True, help="Also enter the folders in a folder, of images and of references.")
@click.option(
    "--noise",
    metavar="auto|SIGMA",
    help="For denoisers, without a reference: sigma of the noise, in values of 0..255, or auto.",
)
@click.option(
    "--metric",
    multiple=True,
    default=("psnr",),
    show_default=True,
    metavar="NAME",
    help="The metric: psnr, ssim, haarpsi (perceptual, no weights needed), ciede2000 (color), lpips, or your own function as "
    "package.module:function (min:... if less is better). Repeatable; several give a Pareto front.",
)
@click.option(
    "--evaluations",
    type=click.IntRange(2, 10_000),
    help="Maximum number of blends to evaluate.  [default: 32; 48 for 3 members]",
)
@click.option(
    "--crop",
    type=click.IntRange(0, 2**16),
    help="Side of the center crop that is judged, in input pixels; 0: whole images.  [default: 256]",
)
@click.option(
    "--html", type=options.PATH_TYPE, help="Write one self-contained page to this file: plot, images, every evaluation."
)
@click.option(
    "--plot", type=options.PATH_TYPE, help="Write a plot of the metrics against alpha to this file: .png, .svg or .pdf."
)
@options.session_options
@options.ray_options
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    images: tuple[Path, ...],
    reference: tuple[Path, ...],
    recursive: bool,
    noise: str | None,
    metric: tuple[str, ...],
    evaluations: int | None,
    crop: int | None,
    html: Path | None,
    plot: Path | None,
    session_options: Any,
    ray_options: Any,
    force: bool,
) -> None:
    """Find the alpha that is best: by references, or for denoisers by the noise.

    Blends are evaluated in the running engine: first evenly over all alphas, then around the best one. Ends with the command to
    run next.
    """
    verb = import_optional("dni_deploy.api.tune").tune
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            images,
            reference=reference or None,
            metric=metric,
            noise=noise,
            evaluations=evaluations,
            crop=crop,
            html=html,
            plot=plot,
            options=session_options,
            recursive=recursive,
            ray_options=ray_options,
            force=force,
            progress=progress,
        )
    if not command_output.print_result("tune", report.to_json()):
        print_tuning(report)


def print_tuning(report: TuneReport) -> None:
    """Prints the members alone, the best blends and the front as a table; the finding; the command to run next."""
    names = dict.fromkeys(report.single_member_indices, "alone")
    names |= dict.fromkeys(report.front[:: -(-len(report.front) // MAX_LISTED_POINTS) or 1], "front")
    for measure, index in enumerate(report.best_indices):
        names[index] = f"best {report.scores[measure].name}"
    if report.front:
        names[report.chosen_index] = "knee"
    rows = [
        [f"{share:g}" for share in report.evaluations[index].coefficients]
        + [score.format_value(value) for score, value in zip(report.scores, report.evaluations[index].values, strict=True)]
        + [names[index]]
        for index in sorted(names, key=lambda index: [-share for share in report.evaluations[index].coefficients])
    ]
    print_table([*report.members, *(score.name for score in report.scores), ""], rows)
    click.echo()
    print_summary(
        {
            "engine": options.format_engine(report.engine, report.engine_reason),
            "evaluations": f"{len(report.evaluations)} in {format_seconds(report.seconds)}, "
            f"over {format_count(report.image_count, 'image')}",
            "change of alpha": format_seconds(report.change_seconds),
            "frame": format_seconds(report.frame_seconds),
            "wrote": ", ".join(report.files),
        }
    )
    for line in (*report.notes, *report.format_finding()):
        click.echo(escape_name(line, 1000))
    click.echo(report.format_next_command())
