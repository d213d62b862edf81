"""`dni-deploy export`: checkpoints in, one bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary
from dni_deploy.errors import escape_name
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "export",
    """
    dni-deploy export psnr=psnr.pth gan=gan.pth -o sr.dni
    dni-deploy export n20.safetensors n40.safetensors n60.safetensors -o denoise.dni
    dni-deploy export day.pth night.pth -o scene.dni --range -1..1
    dni-deploy export a=a.pth b=b.pth -o mine.dni --arch my_package.nets:build
    dni-deploy export day=gan.pth#G_A night=gan.pth#G_B -o scene.dni
    dni-deploy export a=A.pth b=B.pth --align -o x.dni
    dni-deploy export sharp=sharp.onnx soft=soft.onnx -o sr.dni
    dni-deploy export n0=noise0_model.param n1=noise1_model.param -o waifu2x.dni
    """,
)
@click.argument("members", nargs=-1, required=True, metavar="NAME=PATH...")
@options.output_option("The bundle to write, a folder named *.dni.")
@options.arch
@options.key
@click.option("--opset", type=click.IntRange(17, 64), help="ONNX opset of the graph.  [default: 18, or that of .onnx files]")
@click.option(
    "--range",
    "value_range",
    metavar="LO..HI",
    help="Values that stand for black and white; -1..1 for many GANs.  [default: the architecture's]",
)
@click.option(
    "--residual/--no-residual",
    default=None,
    help="Whether the network outputs the noise instead of the image.  [default: the architecture's]",
)
@click.option(
    "--color",
    type=click.Choice(["luma", "channels"]),
    help="What a network of one channel gets of a frame: its luma, while the color is enlarged beside it, or red, green and blue "
    "one by one.  [default: luma for SRCNN and networks that enlarge, else channels]",
)
@click.option(
    "--align", is_flag=True, help="Put each member's channels into the order of the first one's, where that changes nothing."
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="NAME=LOW..HIGH@DEFAULT",
    help="A number that the network takes beside the image and that moves live, such as sigma=0..50/255@15/255: an argument of "
    "forward(), or a constant plane behind the image's channels. label:5=0..1@0 is an argument of five numbers. Repeatable.",
)
@options.force
def command(
    command_output: CommandOutput,
    members: tuple[str, ...],
    output: Path,
    arch: str,
    key: str | None,
    opset: int | None,
    value_range: str | None,
    residual: bool | None,
    color: Any,
    align: bool,
    controls: tuple[str, ...],
    force: bool,
) -> None:
    """Make one bundle from the checkpoints of a family.

    A bundle is a folder: one ONNX graph, each member's weights without loss, and a manifest with a SHA-256 of each
    file. A PATH without a name takes the file's stem. Checkpoints are read without running any code in them; the one
    known network in each file is found, and what was chosen, renamed or left out is printed.

    Two networks may compute the same with their channels in another order, and then do not blend; --align puts the
    channels of every member into the order of the first one's.

    The members may also be .onnx files, or ncnn .param files with the .bin beside each, of one graph up to names.
    """
    chosen = {} if opset is None else {"opset": opset}
    family, values = options.parse_members(members), options.parse_value_range(value_range)
    verb = import_optional("dni_deploy.api.export").export
    with command_output.show_progress() as progress:
        bundle = verb(
            family,
            output,
            arch=arch,
            key=key,
            value_range=values,
            residual=residual,
            color=color,
            align=align,
            controls=controls,
            force=force,
            progress=progress,
            **chosen,
        )
    fields = {
        "bundle": str(output),
        "digest": bundle.digest,
        "architecture": bundle.architecture,
        "members": list(bundle.members),
        "signature": bundle.signature.to_json(),
        "tensors": len(bundle.weight_names),
        "notes": bundle.manifest.graph_facts.get("notes", []),
    }
    if not command_output.print_result("export", fields):
        print_summary(
            {
                "wrote": output,
                "architecture": bundle.architecture,
                "members": ", ".join(bundle.members),
                "frames": bundle.signature.describe(),
                "blended": f"{len(bundle.weight_names)} tensors",
                "digest": bundle.digest,
            }
        )
        for note in fields["notes"]:
            click.echo(escape_name(note, 1000))
