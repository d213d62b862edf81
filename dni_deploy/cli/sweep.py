"""`dni-deploy sweep`: one image at many alphas, or the numbers of many images at many alphas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary, print_table
from dni_deploy.errors import DniError, PartialResultError, UsageError
from dni_deploy.utils.optional_packages import import_optional

if TYPE_CHECKING:
    from dni_deploy.api.sweep import SweepReport

MAX_LISTED_FAILURES = 5


@options.command(
    "sweep",
    """
    dni-deploy sweep sr.dni in.png -o strip.png
    dni-deploy sweep sr.dni in.png -o strip.png --steps 21 --html page.html
    dni-deploy sweep denoise.dni noisy.png -o strip.png --reference clean.png --plot psnr.png
    dni-deploy sweep sr.dni photos/ --reference clean/ --steps 21 --table psnr.csv
    dni-deploy sweep sr.dni photos/ -r --reference clean/ --metric ssim --ray auto --json
    """,
)
@options.bundle
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True, type=options.PATH_TYPE)
@options.output_option("The contact sheet to write, of one image.", required=False)
@click.option("--steps", type=click.IntRange(2, 1001), default=11, show_default=True, help="Number of alphas, ends included.")
@click.option("--even", is_flag=True, help="Take equal steps of the bundle's slider, not of alpha.")
@click.option(
    "--reference",
    type=options.PATH_TYPE,
    multiple=True,
    help="The clean image: adds PSNR and the best alpha. With several images, one for each in the same order, or a folder with "
    "the same names. Repeatable.",
)
@click.option("-r", "--recursive", is_flag=True, help="Also enter the folders in a folder, of images and of references.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="What is measured besides PSNR, without -o: ssim, haarpsi, ciede2000, lpips, or your own function as "
    "package.module:function. Repeatable.",
)
@click.option("--table", type=options.PATH_TYPE, help="Write the numbers of each image and their mean to this .csv file.")
@click.option("--html", type=options.PATH_TYPE, help="Write one self-contained page with a slider to this file, of one image.")
@click.option("--plot", type=options.PATH_TYPE, help="Write a plot of PSNR against alpha to this file; needs --reference.")
@options.session_options
@options.group_rule_options
@options.tile
@options.overlap
@options.ray_options
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    images: tuple[Path, ...],
    output: Path | None,
    reference: tuple[Path, ...],
    recursive: bool,
    sweep_settings: Any,
    table: Path | None,
    html: Path | None,
    plot: Path | None,
    session_options: Any,
    ray_options: Any,
    force: bool,
) -> None:
    """Process one image at many alphas: a contact sheet, and a page with a slider. Or measure many images: their numbers.

    Two members: alpha goes from 0 to 1, the first member's share. More: from each member to the next.

    Without -o, images are measured against their references: PSNR of each and the mean, at each alpha. An image that fails is
    left out, and the exit code is 8.
    """
    failure: DniError | None = None
    if output is None:
        _check_many(images, reference, html)
        measure = import_optional("dni_deploy.api.sweep_images").sweep_images
        with command_output.show_progress() as progress:
            try:
                report = measure(
                    bundle,
                    images,
                    reference,
                    settings=sweep_settings,
                    recursive=recursive,
                    table=table,
                    plot=plot,
                    options=session_options,
                    ray_options=ray_options,
                    force=force,
                    progress=progress,
                )
            except PartialResultError as error:
                report, failure = error.report, error
    else:
        _check_single(images, reference, sweep_settings, table, ray_options)
        with command_output.show_progress() as progress:
            report = import_optional("dni_deploy.api.sweep").sweep(
                bundle,
                images[0],
                output,
                steps=sweep_settings.steps,
                even=sweep_settings.even,
                reference=reference[0] if reference else None,
                html=html,
                plot=plot,
                options=session_options,
                tile=sweep_settings.tile,
                overlap=sweep_settings.overlap,
                force=force,
                progress=progress,
            )
    if not command_output.print_result("sweep", report.to_json()):
        print_sweep(report)
        print_summary({"wrote": ", ".join(report.files)})
    if failure is not None:
        raise failure


def _check_single(
    images: tuple[Path, ...], reference: tuple[Path, ...], settings: Any, table: Path | None, ray_options: Any
) -> None:
    if len(images) > 1 or images[0].is_dir():
        raise UsageError(
            "-o is a contact sheet of one image, and several are given; leave -o out and give --reference, for the numbers of all "
            "(--table writes them). Nothing was written."
        )
    if len(reference) > 1:
        raise UsageError(f"One image has one reference; got {len(reference)}. Nothing was written.")
    given = {"--table": table is not None, "--metric": bool(settings.metrics), "--ray": ray_options.ray is not None}
    for option in [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{option} is for the numbers of images, without -o; leave one of them out. Nothing was written.")


def _check_many(images: tuple[Path, ...], reference: tuple[Path, ...], html: Path | None) -> None:
    if not reference:
        raise UsageError(
            "Missing option -o or --output, the contact sheet to write: dni-deploy sweep BUNDLE IMAGE -o OUTPUT. "
            "Or give --reference, for the numbers of one or many images without a sheet."
        )
    if html is not None:
        raise UsageError("--html shows one image, and is written with its contact sheet: give -o. Nothing was written.")


def print_sweep(report: SweepReport) -> None:
    """Prints the table of a sweep, and its finding."""
    from dni_deploy.imaging.metrics.psnr import format_db

    scored = report.best_index is not None
    metrics = tuple(report.points[0].values)
    rows = [
        [f"{share:.4g}" for share in row.coefficients]
        + ([format_db(row.psnr) if row.psnr is not None else "-"] if scored else [])
        + [f"{row.values[name]:.4f}" for name in metrics]
        + [format_seconds(row.change_seconds), format_seconds(row.frame_seconds), "best" if index == report.best_index else ""]
        for index, row in enumerate(report.points)
    ]
    print_table([*report.members, *(["PSNR"] if scored else []), *metrics, "change", "frame", ""], rows)
    click.echo()
    count = len(report.images)
    failures = [f"{name}: {error}" for name, error in report.failures]
    more = len(failures) - MAX_LISTED_FAILURES
    print_summary(
        {
            "engine": options.format_engine(report.engine, report.engine_reason),
            "images": f"{count} measured" + (f", {len(failures)} failed" if failures else "") if count else None,
            "change of alpha": format_seconds(report.change_seconds),
            "frame": format_seconds(report.frame_seconds),
        }
    )
    for line in failures[:MAX_LISTED_FAILURES]:
        print_summary({"failed": line})
    if more > 0:
        click.echo(f"        and {more} more; --json lists all")
    if scored:
        click.echo(report.format_finding())
