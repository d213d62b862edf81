"""`dni-deploy web`: a static site whose page runs the network in the visitor's browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_bytes, format_seconds, print_summary
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "web",
    """
    dni-deploy web sr.dni -o site
    dni-deploy web sr.dni -o site --sample photo.png --title "Sharp or smooth" --alpha psnr=0.35,gan=0.65 --force
    dni-deploy web sr.dni -o site --runtime ort-web
    """,
)
@options.bundle
@options.output_option("The folder to write: a site for any static web server, at any path.")
@click.option(
    "--runtime",
    type=options.PATH_TYPE,
    metavar="FOLDER",
    help="A folder of `npm install onnxruntime-web`, for machines without network or npm.  [default: npm downloads it]",
)
@click.option(
    "--sample",
    type=options.PATH_TYPE,
    metavar="IMAGE",
    help="The picture that the page opens with.  [default: a photograph that comes with dni-deploy]",
)
@click.option("--title", metavar="TITLE", help="The page's heading.  [default: the bundle's name]")
@click.option("--alpha", metavar="ALPHA", help="The alpha that the page opens with, as for run.  [default: equal shares]")
@options.session_options
@click.option("--force", is_flag=True, help="Replace a site that exists; other files in its folder stay.")
def command(
    command_output: CommandOutput,
    bundle: Path,
    output: Path,
    runtime: Path | None,
    sample: Path | None,
    title: str | None,
    alpha: str | None,
    session_options: Any,
    force: bool,
) -> None:
    """Write a static site whose page runs the network in the visitor's browser, with a slider for alpha.

    The page blends the members and runs them by WebGPU or WebAssembly, with ONNX Runtime Web, which npm downloads when the
    site is made. Pictures that visitors open stay with them. The members' weights are part of the site: publish it only if
    they may be downloaded.
    """
    verb = import_optional("dni_deploy.api.web").web
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            output,
            runtime=runtime,
            sample=sample,
            title=title,
            alpha=alpha,
            options=session_options,
            force=force,
            progress=progress,
        )
    if command_output.print_result("web", report.to_json()):
        return
    print_summary(
        {
            "wrote": f"{report.output} ({report.files} files, {format_bytes(report.size)})",
            "of it": ", ".join(f"{name} {format_bytes(size)}" for name, size in report.sizes.items()),
            "runtime": report.runtime_origin,
            "opens with": f"{options.format_coefficients(report.alpha)}; {report.sample}",
            "took": format_seconds(report.seconds),
            "to look at it": f"python -m http.server -d {report.output}, and open http://localhost:8000",
        }
    )
