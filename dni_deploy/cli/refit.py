"""`dni-deploy refit`: the model blended at one alpha."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, facts, size, span
from dni_deploy.errors import UsageError


@options.command(
    "refit",
    """
    dni-deploy refit sr.dni --alpha 0.35 -o blended.onnx
    dni-deploy refit sr.dni --alpha psnr=0.35,gan=0.65 -o blended.safetensors
    dni-deploy refit sr.dni --alpha 0.35 -o blended.plan --precision fp16
    """,
)
@options.bundle
@options.alpha_optional
@options.slider
@options.output(
    "The file to write: .onnx (self-contained), .safetensors (a checkpoint), or .plan or .engine (TensorRT, for this GPU)."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="Which plan to blend, for .plan and .engine.  [default: the newest]",
)
@options.extrapolate
@options.force
def command(
    surface: Surface, bundle: Path, alpha: str | None, output: Path, precision: str | None, extrapolate: bool, force: bool
) -> None:
    """Write the model blended at one alpha, for other tools.

    A .plan or .engine is a plain TensorRT engine, for programs that load engines themselves, such as trtexec. It is
    made from a plan that `dni-deploy build` wrote, and runs on this kind of GPU with this TensorRT alone. A session
    needs no such file: it changes alpha while it runs.
    """
    if alpha is None:
        raise UsageError("Which alpha? Give --alpha, or --slider for a position of the bundle's slider. Nothing was written.")
    verb = open_door("dni_deploy.verbs.refit").refit
    done = verb(bundle, alpha, output, precision=precision, force=force, extrapolate=extrapolate)
    if surface.result("refit", done.to_json()):
        return
    largest = f"{done.largest_change:.4g} in {done.largest_change_in}" if done.largest_change_in else "none"
    facts(
        {
            "wrote": f"{done.output} ({size(done.size)})",
            "alpha": done.coefficients,
            "changed": f"{done.numbers_changed:,} of {done.numbers:,} numbers in {done.tensors_changed} of {done.tensors} tensors",
            "largest change": largest,
            "took": span(done.seconds),
        }
    )
