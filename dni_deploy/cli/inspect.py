"""`dni-deploy inspect`: what a bundle holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_bytes, print_summary, print_table
from dni_deploy.errors import escape_name
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "inspect",
    """
    dni-deploy inspect sr.dni
    dni-deploy inspect sr.dni --tensors
    dni-deploy inspect sr.dni --groups
    dni-deploy inspect sr.dni --json
    """,
)
@options.bundle
@click.option("--groups", is_flag=True, help="List every weight with the roles and the depth that --alpha-for can select by.")
@click.option("--tensors", is_flag=True, help="List every blended tensor.")
def command(command_output: CommandOutput, bundle: Path, groups: bool, tensors: bool) -> None:
    """Show what a bundle holds: members, network, tensors, and the plans that were built from it.

    Every file is compared with its SHA-256 in the manifest first.
    """
    report = import_optional("dni_deploy.api.inspect").inspect(bundle)
    if command_output.print_result("inspect", report.to_json()):
        return
    print_summary(
        {
            "bundle": report.path,
            "digest": report.digest,
            "architecture": report.architecture,
            "frames": report.signature.describe(),
            "opset": report.opset,
            "size": format_bytes(report.size),
            "blended": f"{report.parameters:,} numbers in {len(report.weights)} tensors",
            "operators": ", ".join(f"{count} {name}" for name, count in report.operators.items()),
            "unused tensors": len(report.unused) or None,
            "shared tensors": len(report.tied) or None,
            "calibration": None if report.calibration is None else _format_calibration(report.calibration),
            "slider": None if report.slider is None else _format_slider(report.slider),
            "aligned": None if report.alignment is None else _format_alignment(report.alignment),
            "verification error": None
            if report.verification_error is None
            else f"{report.verification_error:.2g} of the output",
        }
    )
    click.echo()
    rows = [(member.name, member.dtype, format_bytes(member.size), member.source) for member in report.members]
    print_table(["member", "dtype", "size", "from"], rows)
    click.echo()
    if report.plans:
        built = [(plan.file, plan.engine, plan.precision, format_bytes(plan.size)) for plan in report.plans]
        print_table(["plan", "engine", "precision", "size"], built)
        click.echo()
    if groups:
        print_table(["weight", "roles", "depth"], [(row.name, " ".join(row.roles), row.depth) for row in report.groups])
    elif tensors:
        shapes = [("x".join(map(str, weight.shape)) or "scalar", weight) for weight in report.weights]
        print_table(["tensor", "shape", "role"], [(weight.name, shape, weight.role) for shape, weight in shapes])
    else:
        print_table(
            ["tensors", "role"],
            [(count, role) for role, count in Counter(weight.role for weight in report.weights).most_common()],
        )


def _format_calibration(calibration: dict[str, Any]) -> str:
    images = calibration.get("pictures")
    on = format_count(len(images), "image") if isinstance(images, list) else "noise"
    method = escape_name(calibration.get("method", "statistics"))
    return f"{method}, at {calibration['calibration_points']} alphas on {on}"


def _format_alignment(alignment: dict[str, Any]) -> str:
    members = [f"{name} ({row['moved']} of {row['channels']} channels moved)" for name, row in alignment["members"].items()]
    return escape_name(f"{', '.join(members)} with {alignment['with']}", 1000)


def _format_slider(slider: dict[str, Any]) -> str:
    """Formats a slider; what the bundle does not hold, or holds as another type, is left out."""
    text = f"even steps from {escape_name(slider['members'][0])} to {escape_name(slider['members'][-1])}, {slider['points']} points"
    images, before, after = (slider.get(key) for key in ("pictures", "before", "after"))
    if isinstance(images, list):
        text += f", measured on {format_count(len(images), 'image')}"
    if isinstance(before, float) and isinstance(after, float):
        text += f"; largest step / mean {before:.2f} by alpha, {after:.2f} by the slider"
    return text
