"""`dni-deploy refit`: the model blended at one alpha."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_bytes, format_seconds, print_summary
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "refit",
    """
    dni-deploy refit sr.dni --alpha 0.35 -o blended.onnx
    dni-deploy refit sr.dni --alpha psnr=0.35,gan=0.65 -o blended.safetensors
    dni-deploy refit sr.dni --alpha 0.35 -o blended.plan --precision fp16
    dni-deploy refit sr.dni --alpha 0.35 --alpha-for 'norm:*=0' -o blended.safetensors --save-alpha-preset look.json
    """,
)
@options.bundle
@options.make_alpha_option("--slider or --alpha-preset")
@options.slider
@options.output_option(
    "The file to write: .onnx (self-contained), .safetensors (a checkpoint), or .plan or .engine (TensorRT, for this GPU)."
)
@click.option(
    "--precision",
    type=options.PRECISION_TYPE,
    help="Precision of the plan that is blended, for .plan and .engine.  [default: the newest plan's]",
)
@options.extrapolate
@options.group_rule_options
@options.controls
@options.save_alpha_preset
@options.force
def command(
    command_output: CommandOutput,
    bundle: Any,
    alpha: Any,
    output: Path,
    precision: str | None,
    extrapolate: bool,
    rules: Any,
    controls: dict[str, str],
    save_preset: Path | None,
    force: bool,
) -> None:
    """Write the model blended at one alpha, for other tools.

    A .plan or .engine is a plain TensorRT engine, for programs that load engines themselves, such as trtexec. It is
    made from a plan that `dni-deploy build` wrote, and runs on this kind of GPU with this TensorRT alone. A session
    needs no such file: it changes alpha while it runs.
    """
    verb = import_optional("dni_deploy.api.refit").refit
    report = verb(
        bundle,
        alpha,
        output,
        precision=precision,
        force=force,
        extrapolate=extrapolate,
        rules=rules,
        controls=controls,
        save_preset=save_preset,
    )
    if command_output.print_result("refit", report.to_json()):
        return
    largest = f"{report.largest_change:.4g} in {report.largest_change_tensor}" if report.largest_change_tensor else "none"
    print_summary(
        {
            "wrote": f"{report.output} ({format_bytes(report.size)})",
            "alpha": report.coefficients,
            "group rules": options.format_rules(report.rules),
            "changed": f"{report.numbers_changed:,} of {report.numbers:,} numbers in {report.tensors_changed} of {report.tensors} tensors",
            "largest change": largest,
            "took": format_seconds(report.seconds),
        }
    )
