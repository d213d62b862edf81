"""`dni-deploy run`: images through the network at one alpha, or with an alpha for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary, print_table
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "run",
    """
    dni-deploy run sr.dni in.png -o out.png --alpha 0.35
    dni-deploy run sr.dni photos/ -o done/ --alpha psnr=0.35,gan=0.65
    dni-deploy run sr.dni in.png -o out.png --slider 0.5
    dni-deploy run sr.dni large.png -o out.png --alpha 0.5 --tile 512
    dni-deploy run sr.dni in.png -o out.png --alpha 0.2 --alpha-map face.png --alpha-map-to 0.9
    dni-deploy run sr.dni in.png -o out.png --alpha 0.5 --alpha-for 'norm:*=0.2' --alpha-for 'body.*=0.2..0.8'
    """,
)
@options.bundle
@click.argument("inputs", nargs=-1, required=True, type=options.PATH_TYPE)
@options.output_option("The image to write, or a folder for several.")
@options.make_alpha_option("--alpha-map (two members) or --alpha-preset")
@options.slider
@options.alpha_map_options
@options.alpha_map_error
@options.session_options
@options.tile
@options.overlap
@options.extrapolate
@options.group_rule_options
@options.save_alpha_preset
@options.force
def command(
    command_output: CommandOutput,
    bundle: Any,
    inputs: tuple[Path, ...],
    output: Path,
    alpha: Any,
    alpha_map: Any,
    session_options: Any,
    tile: int | None,
    overlap: int | None,
    save_preset: Path | None,
    force: bool,
) -> None:
    """Process images, or folders of them, at one alpha, or with an alpha for each pixel.

    Transparency, EXIF rotation and color profile are kept. If some images fail, the others are still processed and
    the exit code is 8.
    """
    verb = import_optional("dni_deploy.api.run").run
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            inputs,
            output,
            alpha,
            alpha_map=alpha_map,
            options=session_options,
            tile=tile,
            overlap=overlap,
            save_preset=save_preset,
            force=force,
            progress=progress,
        )
    if command_output.print_result("run", report.to_json()):
        return
    print_summary(
        {
            "alpha": options.format_coefficients(report.alpha),
            "alpha where white": report.alpha_white and options.format_coefficients(report.alpha_white),
            "group rules": options.format_rules(report.rules),
            "engine": options.format_engine(report.engine, report.engine_reason),
            "took": format_seconds(report.seconds),
            "skipped": f"{report.skipped} files that are not images" if report.skipped else None,
        }
    )
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    click.echo()
    rows = [
        (
            row.output,
            f"{row.width}x{row.height}",
            row.tiles,
            format_seconds(row.seconds),
            "; ".join((*row.notes, *([str(row.alpha_map)] if row.alpha_map else []))),
        )
        for row in report.images
    ]
    print_table(["wrote", "size", "tiles", "network", "notes"], rows)
