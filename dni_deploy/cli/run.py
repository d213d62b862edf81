"""`dni-deploy run`: pictures through the network at one alpha, or with the alphas of a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, facts, span, table
from dni_deploy.utils.optional_packages import open_door


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
@click.argument("inputs", nargs=-1, required=True, type=options.PATH)
@options.output("The picture to write, or a folder for several.")
@options.alpha_or_map
@options.slider
@options.alpha_map
@options.alpha_map_error
@options.runs
@options.tile
@options.overlap
@options.extrapolate
@options.ruled
@options.save_recipe
@options.force
def command(
    surface: Surface,
    bundle: Any,
    inputs: tuple[Path, ...],
    output: Path,
    alpha: Any,
    alpha_map: Any,
    engine: str,
    precision: str | None,
    device: int,
    tile: int | None,
    overlap: int | None,
    threads: int,
    extrapolate: bool,
    rules: Any,
    save_recipe: Path | None,
    force: bool,
) -> None:
    """Process pictures, or folders of them, at one alpha, or with an alpha for each pixel.

    Transparency, EXIF rotation and colour profile are kept. Where some pictures fail, the others are still done and
    the exit code is 8.
    """
    verb = open_door("dni_deploy.api.run").run
    with surface.progress() as progress:
        report = verb(
            bundle,
            inputs,
            output,
            alpha,
            alpha_map=alpha_map,
            engine=engine,
            precision=precision,
            device=device,
            tile=tile,
            overlap=overlap,
            threads=threads,
            extrapolate=extrapolate,
            rules=rules,
            save_recipe=save_recipe,
            force=force,
            progress=progress,
        )
    if surface.result("run", report.to_json()):
        return
    facts(
        {
            "alpha": options.shares(report.alpha),
            "to": report.alpha_white and options.shares(report.alpha_white),
            "for": options.rules_told(report.rules),
            "engine": options.engine_told(report.engine, report.engine_why),
            "took": span(report.seconds),
            "skipped": f"{report.skipped} files that are no pictures" if report.skipped else None,
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
            span(row.seconds),
            "; ".join(filter(None, (row.notes, str(row.alpha_map or "")))),
        )
        for row in report.pictures
    ]
    table(["wrote", "size", "tiles", "network", "notes"], rows)
