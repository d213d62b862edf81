"""Measures what a calibration gains between public networks that do not blend by themselves.

    python -m benchmarks.features.public_calibration           into benchmarks/results/public_calibration.json
    python -m benchmarks.features.public_calibration --page    the table of docs/calibration.md from the result

The networks are those of public_families.py; none is part of this project. Each pair is exported and calibrated with `calibrate`
on eight photographs, and runs in the engine of the CPU. The loss is measured on another photograph, at alpha 0.1 to 0.9: by how
many dB the blend is below the worse member.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.public_families import FAMILIES, unpack_wheels
from benchmarks.photographs import photograph, resize_image
from benchmarks.result_file import describe_commit, write_result
from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.export import export
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.session.session import open_session

ROOT = Path(__file__).resolve().parents[2]
RESULT_PATH = ROOT / "benchmarks" / "results" / "public_calibration.json"
PAGE_PATH = ROOT / "docs" / "calibration.md"
PAIRS = (
    ("waifu2x upconv7 photo x2", "clean", "n0"),
    ("waifu2x upconv7 photo x2", "clean", "n1"),
    ("waifu2x upconv7 photo x2", "clean", "n3"),
    ("waifu2x upconv7 photo x2", "n0", "n3"),
    ("Real-CUGAN x2", "conservative", "denoise1x"),
    ("Real-CUGAN x2", "conservative", "denoise3x"),
    ("Real-CUGAN x2", "denoise1x", "denoise3x"),
    ("waifu2x cunet x1", "n0", "n1"),
)
CALIBRATION_PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "motorcycle_left", "immunohistochemistry", "retina", "moon", "gravel")
TEST_PHOTOGRAPH, TOP, LEFT, SIDE_PX = "astronaut", 40, 160, 192
NOISE_SIGMA = 10
ALPHAS = tuple(step / 10 for step in range(1, 10))


def degrade(image: NDArray[np.uint8], scale: int, seed: int) -> NDArray[np.uint8]:
    """Makes the input that should give this image: reduced for a network that enlarges, else noisy."""
    if scale > 1:
        return resize_image(image, image.shape[1] // scale, image.shape[0] // scale)
    noisy = image + np.random.default_rng(seed).normal(0, NOISE_SIGMA, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def measure_losses(bundle: Bundle) -> tuple[list[float], list[float]]:
    """Measures the PSNR of both members, and by how many dB the blend is below the worse one at each alpha."""
    image = photograph(TEST_PHOTOGRAPH)[TOP : TOP + SIDE_PX, LEFT : LEFT + SIDE_PX]
    frame = degrade(image, bundle.signature.scale, 0)
    with open_session(bundle, engine="onnxruntime") as session:
        ends = [psnr(session(frame, alpha=alpha), image) for alpha in (1.0, 0.0)]
        return ends, [min(ends) - psnr(session(frame, alpha=alpha), image) for alpha in ALPHAS]


def measure_pair(family: str, pair: Sequence[str], wheels: Path, folder: Path) -> dict[str, Any]:
    """Exports a pair, and measures it without and with a calibration."""
    members = next(row.members for row in FAMILIES if row.name == family)
    bundle = export({name: wheels / members[name] for name in pair}, folder / "pair.dni", force=True)
    ends, plain = measure_losses(bundle)
    images = folder / f"scale{bundle.signature.scale}"
    if not images.exists():
        images.mkdir()
        for seed, name in enumerate(CALIBRATION_PHOTOGRAPHS, 1):
            write_image(images / f"{name}.png", ImageFile(degrade(photograph(name), bundle.signature.scale, seed)))
    report = calibrate(bundle, images)
    _, calibrated = measure_losses(Bundle.open(bundle.path))
    return {
        "family": family,
        "pair": list(pair),
        "ends_db": ends,
        "plain_loss_db": plain,
        "method": report.method,
        "calibrated_loss_db": calibrated,
    }


def format_table(result: Mapping[str, Any]) -> str:
    """Formats one line for each pair."""
    return "\n".join(
        f"| {row['family']} | {row['pair'][0]} - {row['pair'][1]} | {row['ends_db'][0]:.2f} {row['ends_db'][1]:.2f} "
        f"| {max(row['plain_loss_db']):.2f} | {max(row['calibrated_loss_db']):.2f} | {row['method']} |"
        for row in result["pairs"]
    )


def main() -> None:
    """Measures all pairs and writes the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULT_PATH)
    parser.add_argument("--wheels", type=Path, help="folder that keeps the wheels")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the table of the page")
    arguments = parser.parse_args()
    if arguments.page:
        head, _, rest = PAGE_PATH.read_text("utf-8").partition("<!-- public -->\n")
        header, tail = "\n".join(rest.split("\n")[:2]), rest[rest.index("\n\n") :]
        table = format_table(json.loads(arguments.output.read_text()))
        PAGE_PATH.write_text(f"{head}<!-- public -->\n{header}\n{table}{tail}", "utf-8")
        return
    result: dict[str, Any] = {"schema": 1, "commit": describe_commit(ROOT), "alphas": ALPHAS, "pairs": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpack_wheels(arguments.wheels or folder, folder / "wheels")
        for family, *pair in PAIRS:
            result["pairs"].append(measure_pair(family, pair, folder / "wheels", folder))
            print(format_table({"pairs": result["pairs"][-1:]}), flush=True)
            write_result(arguments.output, result)


if __name__ == "__main__":
    main()
