"""The families trained in this repository: their members, where the weights are, and their export to a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from dni_deploy.api.export import export
from dni_deploy.bundle.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS_FOLDER = ROOT / "benchmarks" / "paper_reproduction" / "weights"
SHIPPED_WEIGHTS_FOLDER = ROOT / "dni_deploy" / "data" / "denoise"
"""The demo family ships in the wheel and is not stored twice."""


@dataclass(frozen=True)
class TrainedFamily:
    """A family trained in this repository.

    title         for captions.
    architecture  a name from exporters.architectures.
    members       name -> file, in family order; the first is the one that the others were fine-tuned from.
    controls      members that were not fine-tuned from the first and do not blend with it.
    """

    title: str
    architecture: str
    members: dict[str, Path]
    controls: tuple[str, ...] = ()

    @property
    def tuned_members(self) -> tuple[str, ...]:
        """The members that blend, the ancestor first."""
        return tuple(name for name in self.members if name not in self.controls)


def _files(family: str, *members: str) -> dict[str, Path]:
    return {member: WEIGHTS_FOLDER / family / f"{member}.safetensors" for member in members}


LEVEL_MEMBERS = ("n20", "n30", "n40", "n50", "n60")

TRAINED_FAMILIES: dict[str, TrainedFamily] = {
    "three_layer": TrainedFamily(
        "three-layer net, 9-5-9", "srcnn", _files("three_layer", *LEVEL_MEMBERS, "scratch"), controls=("scratch",)
    ),
    "dncnn": TrainedFamily(
        "DnCNN-17",
        "dncnn",
        {"n20": SHIPPED_WEIGHTS_FOLDER / "n20.safetensors"} | _files("dncnn", *LEVEL_MEMBERS[1:], "scratch"),
        controls=("scratch",),
    ),
    "demo": TrainedFamily(
        "DnCNN-17, the demo family",
        "dncnn",
        {name: SHIPPED_WEIGHTS_FOLDER / f"{name}.safetensors" for name in ("n20", "n40", "n60")},
    ),
    "sr": TrainedFamily("RRDBNet x4, MSE to GAN", "rrdbnet", _files("sr", "mse", "gan")),
    "style": TrainedFamily(
        "TransformerNet, style and stroke",
        "transformer_net",
        _files("style", "mosaic_small", "mosaic_large", "fire_small", "fire_large", "content"),
    ),
    "style_parts": TrainedFamily(
        "TransformerNet, fine-tuned in parts",
        "transformer_net",
        {
            "mosaic": WEIGHTS_FOLDER / "style" / "mosaic_small.safetensors",
            "norm": WEIGHTS_FOLDER / "style_parts" / "fire_norm.safetensors",
            "conv": WEIGHTS_FOLDER / "style_parts" / "fire_conv.safetensors",
            "both": WEIGHTS_FOLDER / "style" / "fire_small.safetensors",
        },
    ),
    "scenes": TrainedFamily("CycleGAN's generator, scenes", "cyclegan", _files("scenes", "identity", "night", "shallow")),
    "digits": TrainedFamily("DCGAN, digits", "dcgan", _files("digits", "thin", "bold", "slanted")),
}


def bundle(family: str, folder: Path) -> Bundle:
    """Exports a family, controls included, into `folder`/FAMILY.dni."""
    row = TRAINED_FAMILIES[family]
    return export(row.members, folder / f"{family}.dni", arch=row.architecture)


def weights(family: str, member: str) -> dict[str, NDArray[np.float32]]:
    """Reads the tensors of one member, converted to float32."""
    return {name: tensor.astype(np.float32) for name, tensor in load_file(TRAINED_FAMILIES[family].members[member]).items()}
