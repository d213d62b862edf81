"""Writes docs/images/slider.png and docs/images/tune.png from the shipped denoisers and a photograph with noise of sigma 35.

python docs/generate_tuning_plots.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import dni_deploy as dni
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import ImageFile, read_frame, write_image

DATA = Path(__file__).resolve().parent.parent / "dni_deploy" / "data"
NOISE_SIGMA = 35
PART_SIDE_PX = 128
"""Side of the part in the middle of the photograph that is used."""


def add_noise(clean: Frame) -> Frame:
    """Adds Gaussian noise, rounded and clipped as an image file has it."""
    noisy = clean + np.random.default_rng(0).normal(0, NOISE_SIGMA, clean.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def main(target: Path) -> None:
    """Measures and writes both plots."""
    photograph = read_frame(DATA / "astronaut.png")
    top, left = ((side - PART_SIDE_PX) // 2 for side in photograph.shape[:2])
    part = np.ascontiguousarray(photograph[top : top + PART_SIDE_PX, left : left + PART_SIDE_PX])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file_name, frame in (("noisy.png", add_noise(part)), ("clean.png", part)):
            write_image(work / file_name, ImageFile(frame))
        members = {member.upper(): DATA / "denoise" / f"{member}.safetensors" for member in ("n20", "n40", "n60")}
        two = dni.export({name: members[name] for name in ("N20", "N60")}, work / "two.dni")
        slider = dni.slider(two, work / "noisy.png", plot=target / "slider.png", force=True)
        print(f"unevenness {slider.alpha_unevenness:.2f} by alpha, {slider.slider_unevenness:.2f} by the slider")
        three = dni.export(members, work / "three.dni")
        tuned = dni.tune(
            three,
            work / "noisy.png",
            reference=work / "clean.png",
            metric=["psnr", "haarpsi"],
            plot=target / "tune.png",
            force=True,
        )
        print(f"{len(tuned.evaluations)} evaluations; {' '.join(tuned.format_finding())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
