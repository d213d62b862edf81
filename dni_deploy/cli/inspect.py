"""`dni-deploy inspect`: what a bundle holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, counted, facts, size, table
from dni_deploy.errors import shown
from dni_deploy.signature import Signature
from dni_deploy.utils.optional_packages import open_door


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
@click.option("--groups", is_flag=True, help="List every weight with the roles and the depth that --alpha-for can pick by.")
@click.option("--tensors", is_flag=True, help="List every blended tensor.")
def command(surface: Surface, bundle: Path, groups: bool, tensors: bool) -> None:
    """Show what a bundle holds: members, network, tensors, and the plans that were built from it.

    Every file is compared with its SHA-256 in the manifest first.
    """
    found = open_door("dni_deploy.api.inspect").inspect(bundle)
    if surface.result("inspect", found.to_json()):
        return
    facts(
        {
            "bundle": found.path,
            "digest": found.digest,
            "architecture": found.architecture,
            "frames": frames(found.signature),
            "opset": found.opset,
            "size": size(found.size),
            "blended": f"{found.parameters:,} numbers in {len(found.weights)} tensors",
            "operators": ", ".join(f"{count} {name}" for name, count in found.operators.items()),
            "unused tensors": len(found.unused) or None,
            "shared tensors": len(found.tied) or None,
            "statistics": None if found.recalibration is None else _statistics(found.recalibration),
            "slider": None if found.slider is None else _slider(found.slider),
            "probe error": None if found.probe_error is None else f"{found.probe_error:.2g} of PyTorch's output",
        }
    )
    click.echo()
    rows = [(member.name, member.dtype, size(member.size), member.source) for member in found.members]
    table(["member", "dtype", "size", "from"], rows)
    click.echo()
    if found.plans:
        built = [(plan.file, plan.engine, plan.precision, size(plan.size)) for plan in found.plans]
        table(["plan", "engine", "precision", "size"], built)
        click.echo()
    if groups:
        table(["weight", "roles", "depth"], [(row.name, " ".join(row.roles), row.depth) for row in found.groups])
    elif tensors:
        shapes = [("x".join(map(str, weight.shape)) or "scalar", weight) for weight in found.weights]
        table(["tensor", "shape", "role"], [(weight.name, shape, weight.role) for shape, weight in shapes])
    else:
        table(
            ["tensors", "role"],
            [(count, role) for role, count in Counter(weight.role for weight in found.weights).most_common()],
        )


def frames(signature: Signature) -> str:
    """A signature in a few words: 3 -> 3 channels, x4, values 0..1."""
    if signature.kind == "latent":
        return f"{signature.input_channels} numbers of noise -> a picture of {signature.output_channels} channels"
    parts = [f"{signature.input_channels} -> {signature.output_channels} channels", f"x{signature.scale}"]
    parts.append(f"values {signature.low:g}..{signature.high:g}")
    parts += ["the network gives the noise"] if signature.residual else []
    parts += [f"sides in multiples of {signature.multiple}"] if signature.multiple > 1 else []
    return ", ".join(parts)


def _statistics(recalibration: dict[str, Any]) -> str:
    pictures = recalibration.get("pictures")
    on = counted(len(pictures), "picture") if isinstance(pictures, list) else "noise"
    return f"of BatchNorm, re-estimated at {recalibration['knots']} alphas on {on}"


def _slider(slider: dict[str, Any]) -> str:
    """Of two members; what was not kept, or is not of the kind that it should be, is left out."""
    told = f"even steps from {shown(slider['members'][0])} to {shown(slider['members'][-1])}, {slider['knots']} knots"
    pictures, before, after = (slider.get(key) for key in ("pictures", "before", "after"))
    if isinstance(pictures, list):
        told += f", measured on {counted(len(pictures), 'picture')}"
    if isinstance(before, float) and isinstance(after, float):
        told += f"; largest step / mean {before:.2f} by alpha, {after:.2f} by the slider"
    return told
