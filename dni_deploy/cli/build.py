"""`dni-deploy build`: the engine for this machine, ahead of time."""

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
    from dni_deploy.api.build import CalibrationOptions


@options.command(
    "build",
    """
    dni-deploy build sr.dni
    dni-deploy build sr.dni --engine tensorrt --precision fp16 --opt 1x3x720x1280
    dni-deploy build sr.dni --engine tensorrt-rtx --precision fp16
    dni-deploy build denoise.dni --calibrate noisy/
    dni-deploy build sr.dni --engine tensorrt --min 1x3x64x64 --opt 1x3x256x256 --max 1x3x1080x1920
    """,
)
@options.bundle
@options.engine
@click.option(
    "--precision",
    type=options.PRECISION_TYPE,
    help="TensorRT: precision of weights and arithmetic; tf32 is fp32 with convolutions on tensor cores.  [default: fp32]",
)
@click.option("--min", "smallest", metavar="NxCxHxW", help="TensorRT: the smallest input.  [default: 32x32 pixels]")
@click.option("--opt", "tuned", metavar="NxCxHxW", help="TensorRT: the input to optimize for; alone, the only one.")
@click.option("--max", "largest", metavar="NxCxHxW", help="TensorRT: the largest input.  [default: 1920x1088 pixels or less]")
@click.option("--strip", is_flag=True, help="TensorRT: a small plan without weights; they are added when it is opened.")
@click.option(
    "--device",
    metavar="NUMBER|X.Y,...",
    help="TensorRT: number of the GPU to build for, from 0. TensorRT for RTX: or compute capabilities, such as 8.6,8.9, of GPUs "
    "that may be elsewhere.  [default: 0]",
)
@click.option(
    "--calibrate",
    "images",
    type=options.PATH_TYPE,
    multiple=True,
    metavar="PATH",
    help="First calibrate the blends on this image or folder, degraded as the input will be. Repeatable. The word noise for a "
    "network that makes images from noise.",
)
@click.option(
    "--calibration-method",
    "method",
    type=click.Choice(["auto", "output", "channels"]),
    default="auto",
    show_default=True,
    help="With --calibrate: correct the output's channels, or those of every layer (with BatchNorm its statistics); auto: what is "
    "better on parts of the images that the fit has not seen, or nothing.",
)
@click.option(
    "--calibration-points",
    "points",
    cls=options.AliasedOption,
    aliases=("--knots",),
    type=click.IntRange(2, 32),
    help="With --calibrate: maximum number of alphas to fit at.  [default: 11 for two members, 32 for more]",
)
@click.option("--no-calibration", is_flag=True, help="Remove the calibration from the bundle.")
@options.threads
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    engine: str,
    precision: str | None,
    smallest: str | None,
    tuned: str | None,
    largest: str | None,
    strip: bool,
    device: str | None,
    calibration: CalibrationOptions,
    no_calibration: bool,
    threads: int,
    force: bool,
) -> None:
    """Build the engine for this machine ahead of time, and verify it.

    The optimized network is stored inside the bundle, as a plan, so that a session opens without optimizing again. TensorRT
    needs a plan to run at all; auto builds for TensorRT if it can run. The bundle's own files stay as they are, except for the
    calibration that --calibrate adds.
    """
    verb = import_optional("dni_deploy.api.build").build
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            engine=engine,
            precision=precision,
            min_shape=smallest,
            opt_shape=tuned,
            max_shape=largest,
            strip=strip,
            device=device,
            calibration=calibration,
            no_calibration=no_calibration,
            threads=threads,
            force=force,
            progress=progress,
        )
    if command_output.print_result("build", report.to_json()):
        return
    if report.calibration is not None:
        print_calibration(report.calibration)
    print_summary(
        {
            "engine": options.format_engine(report.engine, report.engine_reason),
            "kept" if report.plan_kept else "wrote": report.plan or "nothing",
            "precision": report.precision,
            "input": report.profile,
            "weights": report.update_path,
            "verified": f"{report.weights} weights reach the output" if report.weights and report.error is not None else None,
            "error": None if report.error is None else f"{report.error:.2g} against the reference",
            "took": format_seconds(report.seconds),
        }
    )


METHOD_TITLES = {"none": "blend alone", "output": "output channels", "channels": "all layers' channels"}


def print_calibration(report: Any) -> None:
    """Prints what each method gave, which one is stored, and how far BatchNorms moved."""
    if report.removed:
        print_summary({"calibration": "removed"})
        return
    images = format_count(len(report.images), "image")
    on = f"{report.sample_count} parts of {images}" if report.images else f"{report.sample_count} draws of noise"
    stored = f"{METHOD_TITLES[report.method]}, at {report.calibration_points} alphas on {on}"
    print_summary(
        {
            "calibration": "none: on these images nothing makes the blends better" if report.method == "none" else stored,
            "took": format_seconds(report.seconds),
        }
    )
    click.echo()
    if report.scores:
        has_originals = report.scores[0].largest_loss is not None
        rows = [
            (
                METHOD_TITLES[row.method],
                f"{row.mean_psnr:.2f}",
                f"{row.lowest_psnr:.2f}",
                f"{row.largest_loss:.2f}" if has_originals else "-",
            )
            for row in report.scores
        ]
        truth = "the original" if has_originals else "the mean of outputs"
        print_table(["Correction", f"PSNR against {truth}, dB", "at the worst alpha", "below the worse member"], rows)
        click.echo()
    if report.layers:
        shifts = [(escape_name(row.layer), f"{row.mean:.3f}", f"{row.variance:.3f}") for row in report.layers]
        print_table(["BatchNorm", "shift of the mean, sigma", "ratio of variances"], shifts)
        click.echo()
