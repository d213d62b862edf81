"""`dni-deploy triton`: a bundle as a model of Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_bytes, format_seconds, print_summary
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "triton",
    """
    dni-deploy triton sr.dni -o models
    dni-deploy triton sr.dni -o models --name sr --device gpu --instances 2 --max-queue 64
    dni-deploy triton sr.dni -o models --device cpu --threads 4 --tile 512 --force
    """,
)
@options.bundle
@options.output_option("The model repository, a folder for models; other models in it stay as they are.")
@click.option("--name", metavar="NAME", help="Name of the model.  [default: the bundle's]")
@click.option(
    "--device",
    type=click.Choice(["gpu", "cpu"]),
    help="Where Triton runs the model.  [default: on every GPU, on the CPU where there is none]",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of processes that each run the model; on GPUs, for each of them.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    help="Number of requests that may wait; more are refused (HTTP 503). 0: no limit. Triton answers fewer requests with one.",
)
@options.tile
@click.option("--raw", is_flag=True, help="Take and give the network's own float tensors, (N, C, H, W), instead of images.")
@options.engine
@options.precision
@options.threads
@options.controls
@options.extrapolate
@click.option(
    "--force",
    is_flag=True,
    allow_from_autoenv=False,
    help="Add the bundle as the next version of a model that exists; older versions stay.",
)
def command(
    command_output: CommandOutput, bundle: Path, output: Path, name: str | None, model_options: Any, force: bool
) -> None:
    """Write a bundle as a model of Triton Inference Server.

    Every request brings its image and its alpha; the answer is the rendered image. The model is a folder of the model
    repository, with a copy of the bundle. Triton's Python has to have dni-deploy installed. NAME/probe.py tells whether
    the model answers, and reloads it after a crash.
    """
    verb = import_optional("dni_deploy.api.triton").triton
    report = verb(bundle, output, name=name, options=model_options, force=force)
    if command_output.print_result("triton", report.to_json()):
        return
    print_summary(
        {
            "wrote": f"{report.repository}, model {report.name}, version {report.version} "
            f"({report.files} files, {format_bytes(report.size)})",
            "inputs": ", ".join(f"{name} {kind}" for name, kind in report.inputs.items()),
            "outputs": ", ".join(f"{name} {kind}" for name, kind in report.outputs.items()),
            "alpha": f"the share of {report.members[0]}, or one for each of {', '.join(report.members)}"
            if len(report.members) == 2
            else f"one share for each of {', '.join(report.members)}",
            "took": format_seconds(report.seconds),
            "to serve it": f"tritonserver --model-repository={report.repository} --model-control-mode=explicit "
            f"--load-model={report.name}",
        }
    )
